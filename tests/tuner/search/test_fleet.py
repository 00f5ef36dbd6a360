"""Many workers on one study: a real PostgreSQL that is really restarted, and real workers, really killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import optuna
import pytest

from a2sf_core.errors import A2SFError
from tests.tuner.search.fleet_worker import IDENTITY, SPACE
from tests.tuner.search.test_study_leases import silence
from tests.tuner.tracking.servers import POSTGRES, running_postgres
from tuner.database import Database, url_of
from tuner.search.fleet import Fleet
from tuner.search.kept import EndsElsewhere
from tuner.search.leases import STUDY_TABLES, TRIAL, Lease
from tuner.search.storage import read_trials

GOAL, LEASE = 34, 3.0


@contextmanager
def worker(address: str, folder: Path, pause: float) -> Iterator[subprocess.Popen[str]]:
    arguments = [address, str(folder), str(GOAL), str(LEASE), str(pause)]
    command = [sys.executable, "-m", "tests.tuner.search.fleet_worker", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def raw_trials(address: str) -> list[optuna.trial.FrozenTrial]:
    """As Optuna's dashboard would see them."""
    url, _ = url_of(address, "--storage")
    storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
    return optuna.load_study(study_name="test", storage=storage).trials


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def check_exact(address: str, folder: Path) -> None:
    """Each of the asked-for trials once, in the database and as a worker reads them; each known method once."""
    trials = raw_trials(address)
    assert sorted(trial.user_attrs["turn"] for trial in trials) == list(range(GOAL))
    assert all(trial.state.is_finished() for trial in trials)
    labels = Counter(trial.user_attrs.get("label") for trial in trials)
    assert all(labels[trial.label] == 1 for trial in SPACE.enqueued()), labels
    fleet = Fleet(address, "test", folder, IDENTITY)
    assert len(fleet.records()) == GOAL
    assert fleet.claim(GOAL, 1, SPACE.enqueued()) == []
    fleet.close()


def until(happened: int, process: subprocess.Popen[str]) -> None:
    """Until the worker says that so many trials are finished."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= happened:
            return
    raise AssertionError("it has ended before")


@pytest.mark.skipif(not POSTGRES, reason="needs PostgreSQL (initdb)")
def test_a_killed_worker_and_a_restart_of_the_database_cost_no_trial_and_double_none(tmp_path: Path) -> None:
    with (
        running_postgres() as server,
        worker(server.address, tmp_path / "one", 0.3) as one,
        worker(server.address, tmp_path / "two", 0.3) as two,
    ):
        until(6, one)
        sleep(0.15)  # it is in the middle of the next one
        one.kill()
        until(9, two)
        server.stop()
        sleep(1.0)
        server.start()
        assert two.wait(600) == 0
        check_exact(server.address, tmp_path / "three")


def test_a_worker_that_is_frozen_past_its_lease_doubles_nothing(address: str, tmp_path: Path) -> None:
    """What it measures in the end is dropped, as another worker has had its turn."""
    slow, quick = (Fleet(address, "test", tmp_path / name, IDENTITY, lease=600.0) for name in ("slow", "quick"))
    (turn,) = slow.claim(2, 1, ())
    table = Database(address, tables=STUDY_TABLES)
    silence(table, Lease(TRIAL, turn.number))
    table.close()
    taken = quick.claim(2, 2, ())
    assert [(each.number, each.attempt) for each in taken] == [(0, 2), (1, 1)]
    for fleet, each in ((slow, turn), (quick, taken[0]), (quick, taken[1])):
        fleet.add(finished_trial(), each)
    assert [trial.user_attrs["turn"] for trial in raw_trials(address)] == [0, 1]
    assert slow.claim(2, 1, ()) == quick.claim(2, 1, ()) == []
    assert [trial.user_attrs["turn"] for trial in slow.fresh()] == [0, 1], "its own was dropped"
    assert quick.fresh() == slow.fresh() == []
    slow.close()
    quick.close()


def finished_trial() -> optuna.trial.FrozenTrial:
    """As `Study` hands it over."""
    policy = SPACE.enqueued()[-1].policy
    assert policy
    result = {"policy": json.dumps(policy.to_dict()), "metrics": {"kl": 0.5, "cache_fraction": 0.5}, "sample_kl": [0.5]}
    return optuna.trial.create_trial(values=[0.5, 0.5], user_attrs={"result": result})


def test_one_worker_measures_the_profile_and_the_others_take_it(address: str, tmp_path: Path) -> None:
    one, two = (Fleet(address, "test", tmp_path / name, IDENTITY) for name in ("one", "two"))
    (tmp_path / "two" / "profile.json").write_text("of another study")
    with one.preparing():
        (tmp_path / "one" / "profile.json").write_text("measured")
    with two.preparing():
        assert (tmp_path / "two" / "profile.json").read_text() == "measured"
        assert not (tmp_path / "two" / "learned.json").exists()
    late = Fleet(address, "test", tmp_path / "late", IDENTITY)
    assert (tmp_path / "late" / "profile.json").read_text() == "measured"
    for fleet in (one, two, late):
        fleet.close()


def test_one_worker_concludes_and_its_folder_is_an_ordinary_one(address: str, tmp_path: Path) -> None:
    one, two = (Fleet(address, "test", tmp_path / name, IDENTITY) for name in ("one", "two"))
    for turn in one.claim(2, 2, ()):
        one.add(finished_trial(), turn)
    with pytest.raises(ZeroDivisionError), one.concluding():
        raise ZeroDivisionError
    one.close()
    three = Fleet(address, "test", tmp_path / "three", IDENTITY)
    with two.concluding():
        assert r"another worker chooses, proves and exports the policy into" in elsewhere(three)
    assert f"All 2 trials of study 'test' in {address} are finished; the policy lies in " in elsewhere(three)
    assert str(tmp_path / "two") in elsewhere(three)
    with two.concluding():
        pass  # the same command again shows it again
    assert len(read_trials(tmp_path / "two")) == 2
    for fleet in (two, three):
        fleet.close()


def elsewhere(fleet: Fleet) -> str:
    """What it is told that wants to conclude where another worker does."""
    with pytest.raises(EndsElsewhere) as end, fleet.concluding():
        raise AssertionError
    return str(end.value)


def test_another_identity_is_refused_even_before_the_first_trial(address: str, tmp_path: Path) -> None:
    Fleet(address, "test", tmp_path / "one", IDENTITY).close()
    with pytest.raises(A2SFError, match=r"holds a study with another model \(m, now other\).*--study"):
        Fleet(address, "test", tmp_path / "two", {**IDENTITY, "model": "other"})
    Fleet(address, "another", tmp_path / "two", {**IDENTITY, "model": "other"}).close()


def test_a_folder_with_a_study_of_its_own_is_left_alone(address: str, tmp_path: Path) -> None:
    for name in ("study.journal", "profile.json"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(A2SFError, match=r"holds a study of its own; give this worker a folder with --out"):
        Fleet(address, "test", tmp_path, IDENTITY)
    assert (tmp_path / "profile.json").read_text() == "precious"


def test_someone_elses_study_is_refused(address: str, tmp_path: Path) -> None:
    study = optuna.create_study(storage=address, study_name="test", directions=["minimize", "minimize"])
    study.add_trial(optuna.trial.create_trial(values=[1.0, 1.0]))
    with pytest.raises(A2SFError, match=r"trial 0 was not made by a worker; give another name with --study"):
        Fleet(address, "test", tmp_path, IDENTITY)


@pytest.mark.skipif(not POSTGRES, reason="needs PostgreSQL (initdb)")
def test_the_password_is_shown_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with running_postgres() as server:

        def say(text: str) -> None:
            said.append(text)
            if "does not answer" in text:
                server.start()

        address = server.address.replace("a2sf@", "a2sf:hush@")
        fleet = Fleet(address, "test", tmp_path / "one", IDENTITY, say)
        for turn in fleet.claim(1, 1, ()):
            fleet.add(finished_trial(), turn)
        with fleet.concluding():
            pass
        server.stop()
        assert len(fleet.records()) == 1
        with pytest.raises(A2SFError) as error:
            Fleet(address, "test", tmp_path / "two", {"model": "other"})
        fleet.close()
    assert [text.split()[-3:] for text in said] == [["is", "tried", "again."], ["database", "answers", "again."]]
    shown = [*said, str(error.value), *capfd.readouterr()]
    shown += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in shown if "hush" in text]
