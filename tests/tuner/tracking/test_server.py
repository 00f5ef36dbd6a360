"""A study on a real MLflow server that is stopped and started in the middle, and on PostgreSQL."""

from __future__ import annotations

import importlib.util
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.tracking.servers import POSTGRES, Server, running_postgres
from tests.tuner.tracking.test_tracker import make_trials
from tuner.tracking.tracker import Tracker

EXPERIMENT = "a2sf summarisation"
HAS_POSTGRES = Path(POSTGRES, "initdb").is_file() and importlib.util.find_spec("psycopg") is not None
needs_postgres = pytest.mark.skipif(not HAS_POSTGRES, reason="needs PostgreSQL (initdb) and psycopg")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    # Not in pytest's folder, which only its owner may enter: PostgreSQL does not run as root.
    with running_postgres() as server:
        yield server.address


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One that was not started yet."""
    store = request.getfixturevalue("database") if HAS_POSTGRES else f"sqlite:///{tmp_path}/server.db"
    made = Server(tmp_path, store)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_hold_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.tracking.tracker.HOLD_OFF_S", 0.0)


def children(address: str, tracker: Tracker) -> dict[int, Any]:
    """The trials of the study as MLflow finds them; one that is there twice fails here."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiments = [each.experiment_id for each in client.search_experiments()]
    of_study = f"tags.mlflow.parentRunId = '{tracker.parent_run_id}'"
    found = list(client.search_runs(experiments, of_study, max_results=5000))
    by_trial = {int(run.data.tags["a2sf.trial"]): run for run in found}
    assert len(found) == len(by_trial), "a trial has two runs"
    return by_trial


def test_a_server_that_stops_in_the_middle_has_all_trials_in_the_end(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Started late, stopped in the middle, started again; the run never waits and says each once."""
    said: list[str] = []
    tracker = Tracker(tmp_path / "run", EXPERIMENT, "run", address=server.address, say=said.append)
    tracker.share_view("cache_fraction", "nll_increase", ["budget"])
    tracker.sync(make_trials(5))
    assert (tracker.link(), tracker.parent_run_id) == ("", ""), "it never answered"
    assert len(said) == 1
    assert re.match(
        rf"MLflow at {server.address} does not take the runs \(Connection refused\)\. The run goes on; ", said[0]
    )
    server.start()
    tracker.sync(make_trials(10))
    assert said[1:] == [f"MLflow at {server.address} takes the runs again, and has all that it had missed."]
    assert sorted(children(server.address, tracker)) == list(range(10))
    server.stop()
    tracker.sync(make_trials(20))
    tracker.sync(make_trials(25))
    assert len(said) == 3
    server.start()
    report = tmp_path / "report.json"
    report.write_text("{}")
    tracker.sync(make_trials(30))
    tracker.finish("Keeps 23 %.", {"cache_fraction": 0.23}, {"task": "t"}, [report])
    assert len(said) == 4
    found = children(server.address, tracker)
    assert sorted(found) == list(range(30))
    assert {run.info.status for run in found.values()} == {"FINISHED", "FAILED"}
    assert found[4].data.params == {name: str(value) for name, value in make_trials(5)[4].params.items()}
    assert tracker.link().startswith(f"{server.address}/#/experiments/")
    assert tracker.link().endswith(f"viewStateShareKey=a2sf-{tracker.parent_run_id[:8]}")
    assert tracker.serve_command() == "", "it is there already"
    assert capfd.readouterr() == ("", ""), "MLflow would print two lines per run"
    again = Tracker(tmp_path / "run", EXPERIMENT, "run", address=server.address)
    again.sync(make_trials(30))
    assert again.parent_run_id == tracker.parent_run_id
    assert sorted(children(server.address, again)) == list(range(30))


def test_folders_of_one_name_are_two_studies_in_one_place(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/all.db"
    first, second = (Tracker(tmp_path / user / "run", EXPERIMENT, "run", address=address) for user in "ab")
    first.sync(make_trials(2))
    second.sync(make_trials(3))
    assert first.parent_run_id != second.parent_run_id
    assert [len(children(address, each)) for each in (first, second)] == [2, 3]


@needs_postgres
def test_straight_into_postgresql(database: str, tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "run", "without a server", "straight", address=database)
    tracker.sync(make_trials(12))
    assert sorted(children(database, tracker)) == list(range(12))
    assert database in tracker.serve_command()
    assert (tmp_path / "mlflow-artifacts").is_dir(), "a long policy is a file"


def test_a_server_that_takes_connections_and_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own setting counts
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        held: list[Any] = []
        threading.Thread(target=lambda: held.extend(_accepted(mute)), daemon=True).start()
        said: list[str] = []
        tracker = Tracker(tmp_path, EXPERIMENT, "mute", None, f"http://127.0.0.1:{mute.getsockname()[1]}", said.append)
        tracker.sync(make_trials(3))
    (sentence,) = said
    assert "does not take the runs" in sentence
    assert "\n" not in sentence


def _accepted(mute: socket.socket) -> Iterator[Any]:
    while True:
        try:
            yield mute.accept()
        except OSError:
            return


def test_something_that_is_no_mlflow_is_said(tmp_path: Path) -> None:
    import http.server

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        said: list[str] = []
        Tracker(tmp_path, EXPERIMENT, "other", None, f"http://127.0.0.1:{other.server_port}", said.append)
        other.shutdown()
    (sentence,) = said
    assert "does not take the runs" in sentence
