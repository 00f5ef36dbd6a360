"""Real workers in processes of their own, really killed; the studies are real and small."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import write_short_lists
from tuner.database import Database, default_address
from tuner.search.storage import read_trials
from tuner.service.tables import opened
from tuner.workers.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, Jobs, new_id
from tuner.workers.words import STUDY, VALIDATION

pytestmark = pytest.mark.long

SHORT_LEASE = """
import signal, sys
from pathlib import Path
from tuner.service.job import COMMAND
from tuner.service.tables import opened
from tuner.database import default_address
from tuner.workers.worker import Options, Worker
data = Path(sys.argv[1])
worker = Worker(opened(default_address(data)), Options(data, COMMAND, per_owner=2, room=0, lease=6.0))
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
"""
"""`a2sf-tune worker`, but one that need not be silent for half a minute to be given up."""
TRIALS = 26


class Bench:
    """A data folder with its database, and workers that end with the test."""

    def __init__(self, data: Path) -> None:
        self.data = data
        (data / "studies").mkdir(parents=True)
        write_short_lists(data / "lists.jsonl")
        self.database: Database = opened(default_address(data))
        self.jobs = Jobs(self.database)

    def put(self, kind: str = STUDY, **changed: Any) -> str:
        job = new_id()
        settings: dict[str, Any] = {
            "task": "knowledge", "trials": TRIALS, "data": "lists.jsonl", "max_degradation": 60.0,
            "rules": ["decay", "window"], "warm_start": [], "adapter": None, **changed,
        }  # fmt: skip
        self.jobs.put(job, kind, "anna", {}, {"folder": f"studies/{job}", "settings": settings})
        return job

    def get(self, job: str, kind: str = STUDY) -> Job:
        found = self.jobs.get("anna", kind, job)
        assert found
        return found

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-c", SHORT_LEASE, str(self.data)], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def until(self, happened: Callable[[], bool], seconds: float = 1800) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, [job.__dict__ for job in self.jobs.newest("anna", STUDY, 9)]
            time.sleep(0.1)

    def finished_trials(self, job: str) -> int:
        journal = self.data / "studies" / job / "study.journal"
        return journal.read_bytes().count(b'"result"') if journal.exists() else 0

    def processes_of(self, job: str) -> list[int]:
        """The job's processes: those that hold its name in what they were told, or lead their group."""
        found = subprocess.run(["pgrep", "-f", "tuner.service.job"], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found if _cwd(int(pid)) == self.data.resolve()]


def _cwd(pid: int) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    yield made
    made.database.close()


def test_a_killed_workers_study_goes_on_where_it_was(bench: Bench) -> None:
    job = bench.put()
    with bench.worker() as first:
        bench.until(lambda: bench.finished_trials(job) >= 3)
        first.kill()
        first.wait()
    bench.until(lambda: not bench.processes_of(job), 300)  # what it had started ends with it
    before = [trial.number for trial in read_trials(bench.data / "studies" / job)]
    assert 3 <= len(before) <= TRIALS
    with bench.worker():
        bench.until(lambda: bench.get(job).has_ended)
    found = bench.get(job)
    assert (found.state, found.error, found.deaths) == (DONE, "", 1)
    assert found.result
    assert found.result["status"] == "adopt"
    trials = read_trials(bench.data / "studies" / job)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert (bench.data / "studies" / job / "front.json").is_file()
    assert bench.jobs.bytes_of("anna") > 10_000


def test_a_study_that_dies_twice_at_one_place_fails_and_says_how(bench: Bench) -> None:
    job = bench.put()
    with bench.worker() as worker:
        for attempt in (1, 2):
            bench.until(lambda: bool(bench.processes_of(job)))
            for pid in bench.processes_of(job):
                os.kill(pid, signal.SIGKILL)
            bench.until(lambda attempt=attempt: bench.get(job).deaths >= attempt)  # type: ignore[misc]
        assert worker.poll() is None, "the worker lives"
    found = bench.get(job)
    assert found.state == FAILED
    assert "2 times at the same place (signal 9)" in found.error


def test_ended_by_its_owner_by_sigterm_and_by_a_mistake(bench: Bench) -> None:
    wrong = bench.put(model="nowhere/nothing")
    job = bench.put()
    with bench.worker() as worker:
        bench.until(lambda: bench.get(wrong).has_ended)
        bench.until(lambda: bench.get(job).progress is not None)
        worker.terminate()
        assert worker.wait(600) == 0
        assert bench.get(job).state == QUEUED
        assert bench.get(job).deaths == 0, "that was nobody's fault"
    with bench.worker():
        bench.until(lambda: bench.get(job).state == RUNNING)
        bench.jobs.cancel("anna", STUDY, job)
        bench.until(lambda: bench.get(job).has_ended)
    assert bench.get(job).state == CANCELLED
    assert bench.processes_of(job) == []
    assert bench.get(wrong).state == FAILED
    assert "There is no folder 'nowhere/nothing'" in bench.get(wrong).error


def test_a_validation_shows_what_the_command_shows(bench: Bench) -> None:
    job = bench.put(VALIDATION)
    with bench.worker():
        bench.until(lambda: bench.get(job, VALIDATION).has_ended)
    found = bench.get(job, VALIDATION)
    assert found.result, found.error
    lines = dict(found.result["lines"])
    assert lines["Parts"] == "3 search, 2 select, 9 report samples (none cut, none left out)"
    assert lines["Score"].startswith("100.0%")
