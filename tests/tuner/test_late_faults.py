"""The disk fills, or the folder goes away, under a run: one sentence, code 2, and the same command goes on."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.calls import run_here
from tests.tuner.conftest import Finished
from tuner import cli
from tuner.search.storage import JOURNAL

pytestmark = pytest.mark.long


def command(finished: Finished, out: Path, *more: str) -> list[str]:
    asked = finished.settings
    options = ["--task", asked.task, "--model", asked.model, "--data", str(asked.data), "--out", str(out)]
    options += ["--trials", "24", "--max-degradation", "60", "--device", "cpu"]
    return [sys.executable, "-m", "tuner.cli", *options, *more]


def run(arguments: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=1800, **how)


def is_a_sentence(stderr: str) -> bool:
    return stderr.startswith("a2sf-tune: ") and stderr.count("\n") == 1


@pytest.mark.parametrize("size", [30_000, 4_000_000], ids=["in the journal", "in the pictures"])
def test_a_file_that_may_not_grow_is_named_and_the_run_is_resumed(
    finished: Finished, tmp_path: Path, size: int
) -> None:
    """A limit on files does what a full disk does. MLflow's database is over the first, and only says so."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    arguments = command(finished, tmp_path / "run")
    if size < 1_000_000:  # its database alone is larger, and one in the folder must be there at the start
        arguments += ["--mlflow", "http://127.0.0.1:9"]
    full = run(arguments, preexec_fn=limited)
    assert full.returncode == 2, full.stderr
    assert is_a_sentence(full.stderr), full.stderr
    assert "File too large" in full.stderr
    assert "run the same command again; every finished trial is kept" in full.stderr
    kept = (tmp_path / "run" / JOURNAL).read_bytes().count(b'"result"')
    assert kept > 0
    code, _, stderr = run_here(cli.main, *arguments[3:], seconds=180)
    assert code == 0, stderr
    assert (tmp_path / "run" / JOURNAL).read_bytes().count(b'"result"') == 24


def test_a_folder_that_is_removed_under_the_run_is_named(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    worker = subprocess.Popen(command(finished, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = folder / JOURNAL
    while worker.poll() is None and not (journal.exists() and journal.read_bytes().count(b'"result"') >= 3):
        time.sleep(0.005)
    for _ in range(3):  # it may write while it is removed
        shutil.rmtree(folder, ignore_errors=True)
    _, stderr = worker.communicate(timeout=1800)
    assert worker.returncode == 2, stderr
    assert is_a_sentence(stderr), stderr
    assert str(folder) in stderr
