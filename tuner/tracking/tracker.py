"""Everything that touches MLflow: a parent run per study, a child run per trial, the page a user opens first.

The database is a *view* of the study, never its memory: the trials live in the study's own storage, and
`sync` brings MLflow up to date with them whenever it is called. So a crash or a deleted database costs
nothing but a second `sync`. MLflow cannot follow a moved folder: delete `mlflow/` in it, and it is made anew.
One process writes at a time.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from a2sf_core.errors import A2SFError
from tuner.search.records import TrialRecord
from tuner.tracking.bulk import run_id, write
from tuner.tracking.child import ChildRun, child_run, finite, group_tags
from tuner.tracking.database import TELEMETRY_OFF, at_work, open_database
from tuner.tracking.regressor import log_regressor
from tuner.tracking.view import view_state

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass
class _Child:
    """What MLflow already holds of one trial."""

    run_id: str
    ended: bool
    deleted: bool
    tags: dict[str, str]


class Tracker:
    """The MLflow side of one study. Opening it again finds the same runs."""

    def __init__(self, run_dir: Path, experiment: str, study_name: str, tags: Mapping[str, str] | None = None) -> None:
        self._folder = run_dir.resolve() / "mlflow"
        self._database = self._folder / "mlflow.db"
        self._artifacts = self._folder / "artifacts"
        with at_work(self._database):
            self._client = open_database(self._database)
            self._experiment_id = self._open_experiment(experiment)
            self._parent = self._open_parent(study_name, dict(tags or {}))
            self._parent_id: str = self._parent.run_id
            self._children = self._find_children()

    # ---- what a study calls --------------------------------------------------------------------------------

    def sync(self, trials: Sequence[TrialRecord]) -> None:
        """Give every trial its child run; mend what a kill left half-written; move tags that have changed.

        Cheap enough to be called every few trials while a study runs.
        """
        with at_work(self._database):
            new: list[TrialRecord] = []
            moved: list[tuple[_Child, str, str]] = []
            for trial in trials:
                child = self._children.get(trial.number)
                if child is None:
                    new.append(trial)
                elif not child.deleted:
                    if not child.ended:  # by an MLflow client; what is written in bulk is written whole
                        self._close_child(child, self._describe(trial))
                    wanted = group_tags(trial).items()
                    moved += [(child, name, value) for name, value in wanted if child.tags.get(name) != value]
            if new or moved:
                self._write(new, moved)

    def share_view(self, cache_metric: str, quality_metric: str, params: Sequence[str]) -> None:
        """Prepare the page that `link` opens: Pareto scatter and parallel coordinates of all trials."""
        with at_work(self._database):
            view = json.dumps(view_state(self._parent_id, cache_metric, quality_metric, list(params)))
            self._client.set_experiment_tag(self._experiment_id, f"mlflow.sharedViewState.{self._view}", view)

    def finish(
        self,
        summary: str,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        artifacts: Sequence[Path],
        regressor: Any = None,
        regressor_example: DataFrame | None = None,
    ) -> None:
        """Put the result on the parent run. Calling it again after more trials replaces the result."""
        with at_work(self._database):
            from mlflow.entities import RunTag

            now = int(time.time() * 1000)
            known = self._client.get_run(self._parent_id).data.params
            values = {name: str(value) for name, value in params.items()}
            tags = {"mlflow.note.content": summary}
            # MLflow params are write-once; one that changed since the last finish becomes a tag of that name.
            tags |= {name: value for name, value in values.items() if known.get(name, value) != value}
            new = {name: value for name, value in values.items() if name not in known}
            run_tags = [RunTag(name, value) for name, value in tags.items()]
            self._client.log_batch(self._parent_id, _metrics(metrics, now), _params(new), run_tags)
            for artifact in artifacts:
                self._client.log_artifact(self._parent_id, str(artifact))
            if regressor is not None:
                log_regressor(self._client, self._experiment_id, self._parent_id, regressor, regressor_example)
            self._client.set_terminated(self._parent_id, "FINISHED", end_time=now)

    def link(self, port: int = 5000) -> str:
        """The address of the prepared view, for a browser, while `serve_command` runs."""
        with at_work(self._database):
            tags = self._client.get_experiment(self._experiment_id).tags
        page = f"#/experiments/{self._experiment_id}/runs?workflowType=machine_learning"
        if f"mlflow.sharedViewState.{self._view}" in tags:
            page += f"&compareRunsMode=CHART&viewStateShareKey={self._view}"
        return f"http://127.0.0.1:{port}/{page}"

    def serve_command(self, port: int = 5000) -> str:
        """The shell command that serves the link: this machine only, two processes instead of ten."""
        settings = [f"{name}={value}" for name, value in TELEMETRY_OFF.items()]
        settings.append("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
        command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", self._uri]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        return " ".join([*settings, shlex.join(command)])

    @property
    def parent_run_id(self) -> str:
        """The MLflow run id of the study, for the export's evidence."""
        return self._parent_id

    # ---- opening -------------------------------------------------------------------------------------------

    @property
    def _uri(self) -> str:
        return f"sqlite:///{self._database}"

    @property
    def _view(self) -> str:
        return f"a2sf-{self._parent_id[:8]}"

    def _open_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        location = self._artifacts.as_uri()
        if found is None:
            # Without an explicit location MLflow puts artifacts into the folder the user happens to stand in.
            return str(self._client.create_experiment(name, artifact_location=location))
        if found.artifact_location != location:
            raise A2SFError(
                f"The tracking folder {self._folder} was moved from {found.artifact_location}, which MLflow "
                "cannot follow: delete it and run the same command again; it is rebuilt from the study."
            )
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _open_parent(self, study_name: str, tags: dict[str, str]) -> Any:
        # Compared here and not in the filter, because a study's name may hold quotes.
        for run in self._search("tags.`a2sf.role` = 'study'"):
            if run.data.tags.get("a2sf.study") == study_name:
                if run.info.lifecycle_stage == "deleted":
                    self._client.restore_run(run.info.run_id)
                return run.info
        tags |= {"a2sf.role": "study", "a2sf.study": study_name}
        return self._client.create_run(self._experiment_id, run_name=study_name, tags=tags).info

    def _find_children(self) -> dict[int, _Child]:
        children = {}
        for run in self._search(f"tags.mlflow.parentRunId = '{self._parent_id}'"):
            if "a2sf.trial" in run.data.tags:
                ended, deleted = run.info.status != "RUNNING", run.info.lifecycle_stage == "deleted"
                child = _Child(run.info.run_id, ended, deleted, dict(run.data.tags))
                children[int(run.data.tags["a2sf.trial"])] = child
        return children

    def _search(self, query: str) -> Iterator[Any]:
        """All runs, those included that the user has deleted in the browser: they must not come back."""
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], query, ViewType.ALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    # ---- writing -------------------------------------------------------------------------------------------

    def _describe(self, trial: TrialRecord) -> ChildRun:
        return child_run(trial, self._parent_id, self._parent.start_time)

    def _write(self, new: list[TrialRecord], moved: list[tuple[_Child, str, str]]) -> None:
        runs = {run_id(self._parent_id, trial.number): (trial.number, self._describe(trial)) for trial in new}
        for key, (_, run) in runs.items():
            if run.policy_file:  # before the run itself, so that a kill leaves no run without its policy
                artifacts = Path(url2pathname(urlparse(self._parent.artifact_uri.replace(self._parent_id, key)).path))
                artifacts.mkdir(parents=True, exist_ok=True)
                (artifacts / "policy.json").write_text(run.policy_file)
        tags = [(child.run_id, name, value) for child, name, value in moved]
        whole = write(self._database, self._parent_id, {key: run for key, (_, run) in runs.items()}, tags)
        for key, (number, run) in runs.items():
            if whole:
                self._children[number] = _Child(key, ended=True, deleted=False, tags=dict(run.tags))
            else:
                self._children[number] = self._create_child(run)
                self._close_child(self._children[number], run)
        for child, name, value in moved:
            # Looked up, because the client refuses a run that was deleted in the browser since this was opened.
            if not whole and self._client.get_run(child.run_id).info.lifecycle_stage == "active":
                self._client.set_tag(child.run_id, name, value)
            child.tags[name] = value

    def _create_child(self, run: ChildRun) -> _Child:
        """A run and its tags are created at once, so a killed child is found again."""
        made = self._client.create_run(self._experiment_id, run.started_ms, dict(run.tags), run_name=run.name)
        return _Child(made.info.run_id, ended=False, deleted=False, tags=dict(run.tags))

    def _close_child(self, child: _Child, run: ChildRun) -> None:
        # A fixed time stamp: MLflow drops a value it already holds, so filling twice leaves one value.
        self._client.log_batch(child.run_id, _metrics(run.metrics, run.ended_ms), _params(run.params))
        if run.policy_file:
            self._client.log_text(child.run_id, run.policy_file, "policy.json")
        self._client.set_terminated(child.run_id, run.status, end_time=run.ended_ms)
        child.ended = True


def _metrics(values: Mapping[str, float], time_ms: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, time_ms, 0) for name, value in finite(values).items()]


def _params(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, value) for name, value in values.items()]
