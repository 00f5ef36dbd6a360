"""The database file: what the user can mend is said in one sentence, our own faults come through."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from tuner.tracking.database import TELEMETRY_OFF, at_work


def test_work_begins_with_telemetry_off_and_the_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    with at_work(path):
        assert path.parent.is_dir()
        assert {name: os.environ[name] for name in TELEMETRY_OFF} == TELEMETRY_OFF


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("no database at all, but longer than the header of one" * 3)
    with pytest.raises(A2SFError, match="is damaged: delete it and run the same command again"), at_work(path):
        pytest.fail("went to work on it")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow").write_text("")
    with pytest.raises(A2SFError, match="Cannot write the tracking folder"), at_work(tmp_path / "mlflow" / "mlflow.db"):
        pytest.fail("went to work on it")


def test_a_fault_of_our_own_is_no_sentence(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), at_work(tmp_path / "mlflow.db"):
        _ = 1 / 0
    with pytest.raises(sqlite3.OperationalError, match="no such table"), at_work(tmp_path / "mlflow.db"):
        sqlite3.connect(tmp_path / "mlflow.db").execute("select * from nowhere")
