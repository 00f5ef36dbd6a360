"""The database file: what the user can mend is said in one sentence, our own faults come through."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from tuner.tracking.database import TELEMETRY_OFF, at_work, open_client
from tuner.tracking.place import Place, place_of


def in_folder(folder: Path) -> Place:
    """The database of a study in `folder`, in `folder`/mlflow."""
    return place_of(folder, None)


def file_in(folder: Path) -> Path:
    (folder / "mlflow").mkdir()
    return folder / "mlflow" / "mlflow.db"


def test_work_begins_with_telemetry_off_and_the_folder_made(tmp_path: Path) -> None:
    with at_work(in_folder(tmp_path / "new")):
        assert (tmp_path / "new" / "mlflow").is_dir()
        assert {name: os.environ[name] for name in TELEMETRY_OFF} == TELEMETRY_OFF


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    path.write_text("no database at all, but longer than the header of one" * 3)
    with (
        pytest.raises(A2SFError, match="is damaged: delete it and run the same command again"),
        at_work(in_folder(tmp_path)),
    ):
        pytest.fail("went to work on it")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow").write_text("")
    with pytest.raises(A2SFError, match="Cannot write the tracking folder"), at_work(in_folder(tmp_path)):
        pytest.fail("went to work on it")


def test_a_fault_of_our_own_is_no_sentence(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), at_work(in_folder(tmp_path)):
        _ = 1 / 0
    with pytest.raises(sqlite3.OperationalError, match="no such table"), at_work(in_folder(tmp_path)):
        sqlite3.connect(tmp_path / "mlflow.db").execute("select * from nowhere")


OPEN = """
import sys
from pathlib import Path
from tuner.tracking.database import at_work, open_client
from tuner.tracking.place import place_of
place = place_of(Path(sys.argv[1]), None)
with at_work(place):
    open_client(place)
"""


def n_experiments(folder: Path) -> int:
    place = in_folder(folder)
    with at_work(place):
        return len(open_client(place).search_experiments())


@pytest.mark.parametrize("size", [1, 100_000, 300_000])
def test_killed_while_the_database_is_made_it_is_made_anew(tmp_path: Path, size: int) -> None:
    """MLflow makes it in fifty steps and cannot go on where it was stopped."""
    path = file_in(tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)])
    while worker.poll() is None and max((f.stat().st_size for f in tmp_path.rglob("*.db")), default=0) < size:
        time.sleep(0.001)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL, "it was killed while at work"
    assert not path.exists(), "what appears in its place is whole"
    assert n_experiments(tmp_path) == 1
    assert [each.name for each in path.parent.iterdir()] == ["mlflow.db"]


def test_a_database_that_an_earlier_version_left_half_made_is_made_anew(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE secrets (secret_id TEXT)")
    assert n_experiments(tmp_path) == 1


def test_an_empty_file_is_made_a_database(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    path.touch()
    assert n_experiments(tmp_path) == 1
