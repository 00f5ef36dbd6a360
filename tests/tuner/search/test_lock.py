"""One run per folder: the second is told who holds it, and what a killed one left is cleared away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls import run_here
from tuner import cli
from tuner.search.lock import HOLDER, InUse, only_run_in

HOLD = """
import sys, time
from pathlib import Path
from tuner.search.lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder `run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_until_the_first_is_gone_however_it_went(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InUse, match=rf"in use by another run \(process {holder.pid}\).*--out ANOTHER_FOLDER"):
        only_run_in(folder).__enter__()
    holder.kill()
    holder.wait()
    assert (folder / HOLDER).read_text() == str(holder.pid), "killed before it could clear up"
    with only_run_in(folder):
        assert (folder / HOLDER).read_text() == str(os.getpid())
    assert not (folder / HOLDER).exists()


def test_the_command_says_so_before_it_touches_the_study(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted((tmp_path / "run").iterdir())
    code, _, stderr = run_here(cli.main, "--task", "knowledge", "--trials", "1", "--out", "run", seconds=60)
    assert code == 2
    assert f"in use by another run (process {holder.pid})" in stderr
    assert "Traceback" not in stderr
    assert sorted((tmp_path / "run").iterdir()) == before


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    left = [".report.json.x1.json", ".pareto.png.x2.png", ".pareto.html.x3.html"]
    for name in left:
        (tmp_path / name).write_text("half")
    (tmp_path / "study.journal.lock").symlink_to("study.journal")  # dangles, as a relative one of Optuna's does
    kept = ["report.json", "pareto.png", ".mine.json"]
    for name in kept:
        (tmp_path / name).write_text("whole")
    with only_run_in(tmp_path):
        there = {path.name for path in tmp_path.iterdir()}
    assert there >= set(kept)
    assert not there & {*left, "study.journal.lock"}


def test_a_stale_lock_on_the_journal_costs_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna waits for 30 seconds, or for ever if the link dangles; whoever holds the folder knows better."""
    from tuner.search.study import Study

    monkeypatch.chdir(tmp_path)
    Study(Path("run"), {"model": "m"}, seed=0)
    (tmp_path / "run" / "study.journal.lock").symlink_to("run/study.journal")
    began = time.monotonic()
    with only_run_in(Path("run")):
        Study(Path("run"), {"model": "m"}, seed=0).count_report_look([])
    assert time.monotonic() - began < 25, "it did not wait for Optuna's grace to end"
