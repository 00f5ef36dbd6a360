"""The runs of one study in MLflow: a parent for the study, a child per trial, through MLflow's public client.

They are a *view* of the study, never its memory: the trials live in the study's own storage. So whatever failed here
costs nothing but doing it again. One process writes at a time.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from tuner.search.records import TrialRecord
from tuner.tracking.child import ChildRun, child_run, finite, group_tags
from tuner.tracking.database import open_client
from tuner.tracking.place import Place
from tuner.tracking.regressor import log_regressor

if TYPE_CHECKING:
    from pandas import DataFrame

AT_ONCE = 100
"""MLflow takes no more params in one call; a space with three of them per layer may have more."""


@dataclass
class _Child:
    """What MLflow already holds of one trial."""

    run_id: str
    ended: bool
    deleted: bool
    tags: dict[str, str]


class StudyRuns:
    """The runs of one study, found or made. To be used inside `tuner.tracking.database.at_work`.

    Args:
        place: where they are.
        run_dir: the study's folder.
        experiment: name of the experiment that they belong to.
        study_name: name of the parent run.
        tags: further tags of the parent run.
    """

    def __init__(self, place: Place, run_dir: Path, experiment: str, study_name: str, tags: Mapping[str, str]) -> None:
        self._place = place
        self._client = open_client(place)
        self.experiment_id = self._open_experiment(experiment)
        # Others may have a folder of the same name, on a server that all of them use.
        key = study_name if place.embedded else f"{study_name} {_own_id(run_dir)}"
        self._parent = self._open_parent(study_name, key, dict(tags))
        self.parent_id: str = self._parent.run_id
        self._children = self._find_children()

    # ---- what the tracker calls ----------------------------------------------------------------------------

    def sync(self, trials: Sequence[TrialRecord]) -> None:
        """Give every trial its child run; mend what a kill left half-written; move tags that have changed."""
        for trial in trials:
            child = self._children.get(trial.number)
            if child is None:
                child = self._children[trial.number] = self._create_child(self._describe(trial))
            if child.deleted:
                continue
            if not child.ended:
                self._close_child(child, self._describe(trial))
            moved = {name: value for name, value in group_tags(trial).items() if child.tags.get(name) != value}
            if moved:
                self._move_tags(child, moved)

    def set_view(self, key: str, state: str) -> None:
        """Keep a page's state under `key`, for links that name it."""
        self._client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{key}", state)

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
        now = int(time.time() * 1000)
        known = self._client.get_run(self.parent_id).data.params
        values = {name: str(value) for name, value in params.items()}
        tags = {"mlflow.note.content": summary}
        # MLflow params are write-once; one that changed since the last finish becomes a tag of that name.
        tags |= {name: value for name, value in values.items() if known.get(name, value) != value}
        new = {name: value for name, value in values.items() if name not in known}
        self._client.log_batch(self.parent_id, _metrics(metrics, now), _params(new), _tags(tags))
        for artifact in artifacts:
            self._client.log_artifact(self.parent_id, str(artifact))
        if regressor is not None:
            log_regressor(self._client, self.experiment_id, self.parent_id, regressor, regressor_example)
        self._client.set_terminated(self.parent_id, "FINISHED", end_time=now)

    # ---- opening -------------------------------------------------------------------------------------------

    def _open_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        # Without an explicit location MLflow puts artifacts into the folder the user happens to stand in.
        location = self._place.artifacts.as_uri() if self._place.artifacts else None
        if found is None:
            return str(self._client.create_experiment(name, artifact_location=location))
        if self._place.embedded and found.artifact_location != location:
            assert self._place.database is not None
            raise A2SFError(
                f"The tracking folder {self._place.database.parent} was moved from {found.artifact_location}, which "
                "MLflow cannot follow: delete it and run the same command again; it is rebuilt from the study."
            )
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _open_parent(self, study_name: str, key: str, tags: dict[str, str]) -> Any:
        # Compared here and not in the filter, because a study's name may hold quotes.
        for run in self._search("tags.`a2sf.role` = 'study'"):
            if run.data.tags.get("a2sf.study") == key:
                if run.info.lifecycle_stage == "deleted":
                    self._client.restore_run(run.info.run_id)
                return run.info
        tags |= {"a2sf.role": "study", "a2sf.study": key}
        return self._client.create_run(self.experiment_id, run_name=study_name, tags=tags).info

    def _find_children(self) -> dict[int, _Child]:
        children: dict[int, _Child] = {}
        for run in self._search(f"tags.mlflow.parentRunId = '{self.parent_id}'"):
            number = int(run.data.tags.get("a2sf.trial", -1))
            ended, deleted = run.info.status != "RUNNING", run.info.lifecycle_stage == "deleted"
            if number in children:
                # The server made it, and its answer was lost on a client that the user lets retry.
                if not deleted:
                    self._client.delete_run(run.info.run_id)
            elif number >= 0:
                children[number] = _Child(run.info.run_id, ended, deleted, dict(run.data.tags))
        return children

    def _search(self, query: str) -> Iterator[Any]:
        """All runs, those included that the user has deleted in the browser: they must not come back."""
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], query, ViewType.ALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    # ---- writing -------------------------------------------------------------------------------------------

    def _describe(self, trial: TrialRecord) -> ChildRun:
        return child_run(trial, self.parent_id, self._parent.start_time)

    def _create_child(self, run: ChildRun) -> _Child:
        """A run and its tags are created at once, so a killed child is found again."""
        made = self._client.create_run(self.experiment_id, run.started_ms, dict(run.tags), run_name=run.name)
        return _Child(made.info.run_id, ended=False, deleted=False, tags=dict(run.tags))

    def _close_child(self, child: _Child, run: ChildRun) -> None:
        # A fixed time stamp: MLflow drops a value it already holds, so filling twice leaves one value.
        metrics, params = _metrics(run.metrics, run.ended_ms), _params(run.params)
        for start in range(0, max(len(metrics), len(params)), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            self._client.log_batch(child.run_id, metrics[some], params[some])
        if run.policy_file:
            self._client.log_text(child.run_id, run.policy_file, "policy.json")
        self._client.set_terminated(child.run_id, run.status, end_time=run.ended_ms)
        child.ended = True

    def _move_tags(self, child: _Child, moved: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(child.run_id, tags=_tags(moved))
        except MlflowException:
            # It refuses a run that was deleted in the browser since this was opened.
            if self._client.get_run(child.run_id).info.lifecycle_stage == "active":
                raise
            child.deleted = True
        child.tags |= moved


def _own_id(run_dir: Path) -> str:
    """What tells this study from others of its name, kept in its folder."""
    path = run_dir / "mlflow" / "study.id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8").strip()[:64]


def _metrics(values: Mapping[str, float], time_ms: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, time_ms, 0) for name, value in finite(values).items()]


def _params(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, value) for name, value in values.items()]


def _tags(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, value) for name, value in values.items()]
