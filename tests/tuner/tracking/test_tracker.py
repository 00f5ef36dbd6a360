"""MLflow as a user meets it: real databases, a real kill, the real page in a real browser."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from a2sf_core import A2SFError
from tests.tuner.tracking.servers import free_port, wait_for
from tuner.search.records import TrialRecord
from tuner.tracking.tracker import Tracker

pytestmark = pytest.mark.long

CHROMIUM = shutil.which("chromium")
EXPERIMENT, STUDY = "a2sf summarisation", 'it\'s a "study"'  # quotes would break a filter built from the name
N_TRIALS = 30


def make_trials(number: int = N_TRIALS) -> list[TrialRecord]:
    draw = random.Random(0)
    trials = []
    for i in range(number):
        failed, pruned = i % 10 == 9, i % 10 == 8
        kept = draw.uniform(0.05, 0.9)
        trials.append(
            TrialRecord(
                number=i,
                state="failed" if failed else "pruned" if pruned else "complete",
                label=f"h2o 0.{i + 1}" if i < 4 else "search",
                kind="baseline" if i < 4 else "search",
                method="h2o" if i < 4 else "",
                params={"half_life_place": draw.randrange(24), "budget": kept, "mode": "prefill"}
                | {f"shape_{k}": draw.random() for k in range(7)},
                metrics={}
                if failed
                else {"cache_fraction": kept, "nll_increase": 0.5 * math.exp(-5 * kept), "kl": math.inf}
                | {f"other_{k}": draw.random() for k in range(5)}
                | ({"samples_seen": 8} if pruned else {}),
                policy_json='{"layers": []}' if i else "[" + "0," * 5000 + "0]",
                pareto=i % 5 == 0,
                error="out of memory" if failed else "",
                started_ms=1_764_000_000_000 + 1000 * i,
                ended_ms=1_764_000_000_700 + 1000 * i,
            )
        )
    return trials


def client(run_dir: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{run_dir}/mlflow/mlflow.db")


def runs(run_dir: Path, study: str) -> tuple[Any, dict[int, Any]]:
    """The study's parent and its children by trial, as MLflow itself finds them; a second of either fails here."""
    experiments = [experiment.experiment_id for experiment in client(run_dir).search_experiments()]
    found = list(client(run_dir).search_runs(experiments, max_results=5000))
    (parent,) = [run for run in found if run.data.tags.get("a2sf.study") == study]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    by_trial = {int(run.data.tags["a2sf.trial"]): run for run in children}
    assert len(children) == len(by_trial), "a trial has two runs"
    return parent, by_trial


@pytest.fixture(autouse=True)
def empty_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test stands in an empty folder and must leave it empty."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, since making one takes a second; each test has a study of its own in it."""
    return tmp_path_factory.mktemp("run é 1")  # a name that a shell command must quote


@pytest.fixture(scope="module")
def synced(run_dir: Path) -> tuple[Tracker, list[TrialRecord]]:
    tracker, trials = Tracker(run_dir, EXPERIMENT, STUDY, {"task": "summarisation"}), make_trials()
    tracker.sync(trials)
    return tracker, trials


def test_every_trial_is_one_complete_child(run_dir: Path, synced: tuple[Tracker, list[TrialRecord]]) -> None:
    _, trials = synced
    parent, children = runs(run_dir, STUDY)
    assert parent.data.tags["task"] == "summarisation"
    assert sorted(children) == [trial.number for trial in trials]
    searched, baseline, pruned, failed = children[4], children[0], children[8], children[9]
    assert (searched.info.run_name, searched.info.status) == ("trial-004", "FINISHED")
    assert searched.data.params == {name: str(value) for name, value in trials[4].params.items()}
    assert "kl" not in searched.data.metrics  # infinite
    assert searched.data.metrics["cache_fraction"] == pytest.approx(trials[4].metrics["cache_fraction"])
    assert (searched.info.start_time, searched.info.end_time) == (trials[4].started_ms, trials[4].ended_ms)
    assert searched.data.tags["a2sf.policy"] == trials[4].policy_json
    assert (baseline.info.run_name, baseline.data.tags["a2sf.group"]) == ("baseline h2o 0.1", "1 pareto front")
    assert "a2sf.policy" not in baseline.data.tags  # too long for a tag
    policies = list((run_dir / "mlflow" / "artifacts" / baseline.info.run_id).rglob("policy.json"))
    assert [path.read_text() for path in policies] == [trials[0].policy_json]
    assert (pruned.info.status, pruned.data.tags["a2sf.group"]) == ("FINISHED", "4 pruned")
    assert pruned.data.metrics["samples_seen"] == 8
    assert (failed.info.status, failed.data.tags["mlflow.note.content"]) == ("FAILED", "out of memory")
    assert failed.data.tags["a2sf.group"] == "5 failed"


def test_a_resumed_study_finds_its_runs_and_moves_the_tags(
    run_dir: Path, synced: tuple[Tracker, list[TrialRecord]]
) -> None:
    parent, before = runs(run_dir, STUDY)
    Tracker(run_dir, EXPERIMENT, STUDY).sync([replace(trial, pareto=trial.number == 7) for trial in synced[1]])
    again, children = runs(run_dir, STUDY)
    assert again.info.run_id == parent.info.run_id
    assert {n: run.info.run_id for n, run in children.items()} == {n: run.info.run_id for n, run in before.items()}
    assert [n for n, run in children.items() if run.data.tags["a2sf.pareto"] == "true"] == [7]
    assert children[5].data.tags["a2sf.group"] == "3 search"


def test_a_kill_in_the_middle_doubles_nothing(run_dir: Path) -> None:
    study, many = "killed", 100
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from tests.tuner.tracking.test_tracker import EXPERIMENT, Tracker, make_trials\n"
        f"trials = make_trials({many})\n"
        f"tracker = Tracker(Path(sys.argv[1]), EXPERIMENT, {study!r})\n"
        "tracker.sync(trials[:10])\n"
        "print('go', flush=True)\n"
        "tracker.sync(trials)\n"
    )
    command = [sys.executable, "-c", program, str(run_dir), str(Path(__file__).parents[3])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "go\n"
        journal = run_dir / "mlflow" / "mlflow.db-journal"  # there while a transaction writes
        while victim.poll() is None and not journal.exists():
            time.sleep(0.001)
        victim.send_signal(signal.SIGKILL)
    trials = make_trials(many)
    parent, children = runs(run_dir, study)
    assert len(children) == 10  # all of a transaction or nothing
    # The client writes a run in pieces, so a kill may leave one with its tags and nothing else.
    tags = {"mlflow.parentRunId": parent.info.run_id, "a2sf.trial": str(trials[-1].number)}
    client(run_dir).create_run(parent.info.experiment_id, trials[-1].started_ms, tags)
    Tracker(run_dir, EXPERIMENT, study).sync(trials)
    _, children = runs(run_dir, study)
    assert sorted(children) == [trial.number for trial in trials]
    for trial in trials:
        run = children[trial.number]
        assert run.info.status == ("FAILED" if trial.error else "FINISHED")
        assert len(run.data.params) == len(trial.params)
        assert len(run.data.metrics) == sum(map(math.isfinite, trial.metrics.values()))


@pytest.mark.parametrize("step", ["create_run", "log_batch", "set_terminated"])
def test_a_sync_that_was_interrupted_is_simply_done_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C may fall between the commit and the moment the tracker has noted it."""
    from mlflow import MlflowClient

    tracker, real, calls = Tracker(run_dir, EXPERIMENT, f"twice {step}"), getattr(MlflowClient, step), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(real(*args, **kwargs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(MlflowClient, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracker.sync(make_trials(5))
    tracker.sync(make_trials(5))
    children = runs(run_dir, f"twice {step}")[1]
    assert sorted(children) == list(range(5))
    assert all(run.info.status != "RUNNING" for run in children.values())


def test_syncing_while_the_study_runs(run_dir: Path) -> None:
    """Trials come, the front moves, and the user deletes a run in the browser meanwhile."""
    study, trials = "running", [replace(trial, pareto=False) for trial in make_trials(12)]
    tracker = Tracker(run_dir, EXPERIMENT, study)
    for done in range(0, 13, 3):
        seen = [replace(trial, pareto=done - 3 <= trial.number < done) for trial in trials[:done]]
        tracker.sync(seen)
        if done == 6:
            client(run_dir).delete_run(runs(run_dir, study)[1][4].info.run_id)
    _, children = runs(run_dir, study)
    assert sorted(children) == [n for n in range(12) if n != 4]
    assert [n for n, run in sorted(children.items()) if run.data.tags["a2sf.pareto"] == "true"] == [9, 10, 11]
    assert children[5].data.tags["a2sf.group"] == "3 search"


def test_filling_a_child_twice_leaves_one_value(run_dir: Path) -> None:
    """A kill may also fall between filling a child and closing it."""
    trial = make_trials(5)[4]
    tracker = Tracker(run_dir, EXPERIMENT, "filled twice")
    tracker.sync([trial])
    run_id = runs(run_dir, "filled twice")[1][4].info.run_id
    client(run_dir).update_run(run_id, status="RUNNING")
    Tracker(run_dir, EXPERIMENT, "filled twice").sync([trial])
    assert runs(run_dir, "filled twice")[1][4].info.status == "FINISHED"
    assert len(client(run_dir).get_metric_history(run_id, "cache_fraction")) == 1


def test_a_run_deleted_in_the_browser_stays_deleted(run_dir: Path) -> None:
    trials = make_trials(3)
    Tracker(run_dir, EXPERIMENT, "deleted").sync(trials)
    client(run_dir).delete_run(runs(run_dir, "deleted")[1][1].info.run_id)
    Tracker(run_dir, EXPERIMENT, "deleted").sync([replace(trial, pareto=True) for trial in trials])
    assert sorted(runs(run_dir, "deleted")[1]) == [0, 2]


@pytest.mark.parametrize("kind", ["pipeline", "trees"])
def test_finish_logs_a_model_that_loads_without_a_pickle(run_dir: Path, tmp_path: Path, kind: str) -> None:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = pd.DataFrame({"tokens": np.linspace(100, 4000, 60), "budget": np.linspace(0.1, 0.9, 60)})
    model = make_pipeline(StandardScaler(), Ridge()) if kind == "pipeline" else HistGradientBoostingRegressor()
    model.fit(inputs, inputs["tokens"] ** 0.5)
    files = [tmp_path / "report.json", tmp_path / "pareto.png"]
    for file in files:
        file.write_text("{}")
    tracker = Tracker(run_dir, EXPERIMENT, kind)
    tracker.finish("Keeps 40 %.", {"cache_fraction": 0.4}, {"trials": 30}, files, model, inputs[:3])
    tracker.finish("Keeps 23 %.", {"cache_fraction": 0.23}, {"trials": 60}, files, model, inputs[:3])

    parent, _ = runs(run_dir, kind)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "Keeps 23 %."
    assert parent.data.metrics == {"cache_fraction": 0.23}
    assert (parent.data.params["trials"], parent.data.tags["trials"]) == ("30", "60")
    assert {f.path for f in client(run_dir).list_artifacts(parent.info.run_id)} == {"report.json", "pareto.png"}
    ours = f"source_run_id = '{parent.info.run_id}'"
    (logged,) = client(run_dir).search_logged_models([parent.info.experiment_id], filter_string=ours)
    folder = url2pathname(urlparse(logged.artifact_location).path)
    mlflow.set_tracking_uri(f"sqlite:///{run_dir}/mlflow/mlflow.db")
    try:
        loaded = [mlflow.sklearn.load_model(address) for address in (folder, f"models:/{logged.model_id}")]
    finally:
        mlflow.set_tracking_uri(None)
    for copy in loaded:
        assert np.allclose(copy.predict(inputs), model.predict(inputs))
    described = mlflow.models.Model.load(folder)
    assert described.signature.inputs.input_names() == ["tokens", "budget"]
    assert described.saved_input_example_info
    assert not list((run_dir / "mlflow").rglob("*.pkl"))


def test_telemetry_is_off_and_the_process_stays_as_it_was(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    import mlflow

    before = mlflow.get_tracking_uri(), logging.getLogger("mlflow").level, list(warnings.filters)
    Tracker(run_dir, EXPERIMENT, "quiet").sync(make_trials(2))
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "true")
    assert (mlflow.get_tracking_uri(), logging.getLogger("mlflow").level, list(warnings.filters)) == before
    assert caplog.records == []


def test_a_database_that_is_locked_meanwhile_ends_no_run_and_the_next_visit_catches_up(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.tracking.tracker.HOLD_OFF_S", 0.0)
    said: list[str] = []
    tracker = Tracker(run_dir, EXPERIMENT, "locked", say=said.append)
    database = run_dir / "mlflow" / "mlflow.db"
    with sqlite3.connect(database) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        tracker.sync(make_trials(1))
        tracker.sync(make_trials(2))
    (sentence,) = said
    assert sentence.startswith(f"Another program holds the tracking database {database}")
    tracker.sync(make_trials(3))
    assert said[1:] == [f"MLflow at sqlite:///{database} takes the runs again, and has all that it had missed."]
    assert sorted(runs(run_dir, "locked")[1]) == [0, 1, 2]


def test_a_locked_database_is_named_at_the_start(run_dir: Path) -> None:
    Tracker(run_dir, EXPERIMENT, "locked")
    with sqlite3.connect(run_dir / "mlflow" / "mlflow.db") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(A2SFError, match="Another program holds the tracking database"):
            Tracker(run_dir, EXPERIMENT, "locked")


def test_more_params_than_mlflow_takes_at_once(run_dir: Path) -> None:
    (trial,) = make_trials(1)
    many = {f"layer_{i}": i / 7 for i in range(240)}
    Tracker(run_dir, EXPERIMENT, "many").sync([replace(trial, params=many)])
    assert len(runs(run_dir, "many")[1][0].data.params) == 240


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    folder = Path("/sys/a2sf")  # root may write everywhere else
    if os.geteuid() != 0:
        folder = tmp_path / "run"
        folder.mkdir(mode=0o555)
    with pytest.raises(A2SFError, match=rf"Cannot write the tracking folder {folder}/mlflow .*another run folder"):
        Tracker(folder, EXPERIMENT, STUDY)


def test_a_damaged_or_moved_database_says_how_to_mend_it(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "mlflow").mkdir(parents=True)
    (tmp_path / "new" / "mlflow" / "mlflow.db").write_text("not a database, " * 100)
    with pytest.raises(A2SFError, match="is damaged: delete it and run the same command again"):
        Tracker(tmp_path / "new", EXPERIMENT, STUDY)
    Tracker(run_dir, EXPERIMENT, STUDY)
    shutil.copytree(run_dir, tmp_path / "copy")
    with pytest.raises(A2SFError, match=r"copy/mlflow was moved from .*delete it"):
        Tracker(tmp_path / "copy", EXPERIMENT, STUDY)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
def test_the_link_opens_on_both_charts_with_all_trials(
    synced: tuple[Tracker, list[TrialRecord]], tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    tracker, trials = synced
    tracker.share_view("cache_fraction", "nll_increase", ["half_life_place", "budget"])
    port = free_port()
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-c", tracker.serve_command(port)], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1600, "height": 1300})
            outside: list[str] = []
            page.on("request", lambda request: outside.append(request.url))
            page.goto(tracker.link(port))
            page.wait_for_selector(".js-plotly-plot .scatterlayer .point", timeout=300_000)
            page.wait_for_selector("text=Parallel Coordinates", timeout=300_000)
            page.wait_for_selector("text=half_life_place", timeout=300_000)
            page.wait_for_timeout(1000)
            points = page.evaluate("document.querySelector('.js-plotly-plot').data[0].x.length")
            axes = page.locator("svg text.label, svg .label, svg .axis-title").all_inner_texts()
            page.screenshot(path=os.environ.get("A2SF_SCREENSHOT", str(tmp_path / "mlflow.png")))
            text = page.inner_text("body")
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    assert points == sum(trial.state != "failed" for trial in trials)
    assert {"half_life_place", "budget", "cache_fraction", "nll_increase"} <= set(axes) | set(text.split())
    assert "baseline h2o 0.1" in text
    assert [url for url in outside if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))] == []
