"""Everything that touches MLflow: a parent run per study, a child run per trial, the page a user opens first.

The database is a *view* of the study, never its memory: the trials live in the study's own storage, and
``sync`` brings MLflow up to date with them whenever it is called. So a crash or a deleted database costs
nothing but a second ``sync``. MLflow cannot follow a moved folder: delete ``mlflow/`` in it, and it is made anew.
One process writes at a time.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import shlex
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from tuner.records import TrialRecord
from tuner.tracking_view import view_state

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pandas import DataFrame

_TELEMETRY_OFF = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_LOCK_WAIT_S = 3.0
_TAG_LIMIT = 8000  # MLflow cuts longer tag values, and half a JSON document is worse than none

# The user interface loads 100 runs at first, in this order; so what matters most must sort first.
_GROUPS = {"front": "1 pareto front", "baseline": "2 baseline", "search": "3 search", "failed": "4 failed"}


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
        with self._at_work():
            self._client = _open_database(self._database)
            self._experiment_id = self._open_experiment(experiment)
            self._parent_id, self._parent_started_ms = self._open_parent(study_name, dict(tags or {}))
            self._children = self._find_children()

    # ---- what a study calls --------------------------------------------------------------------------------

    def sync(self, trials: Sequence[TrialRecord]) -> None:
        """Give every trial its child run; mend what a kill left half-written; move tags that have changed."""
        with self._at_work():
            for trial in trials:
                child = self._children.get(trial.number)
                if child is None or not child.ended:
                    self._children[trial.number] = self._write_child(trial, child)
                elif not child.deleted:
                    self._move_tags(child, _group_tags(trial))

    def share_view(self, cache_metric: str, quality_metric: str, params: Sequence[str]) -> None:
        """Prepare the page that ``link`` opens: Pareto scatter and parallel coordinates of all trials."""
        with self._at_work():
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
        with self._at_work():
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
                self._log_regressor(regressor, regressor_example)
            self._client.set_terminated(self._parent_id, "FINISHED", end_time=now)

    def link(self, port: int = 5000) -> str:
        """The address of the prepared view, for a browser, while ``serve_command`` runs."""
        with self._at_work():
            tags = self._client.get_experiment(self._experiment_id).tags
        page = f"#/experiments/{self._experiment_id}/runs?workflowType=machine_learning"
        if f"mlflow.sharedViewState.{self._view}" in tags:
            page += f"&compareRunsMode=CHART&viewStateShareKey={self._view}"
        return f"http://127.0.0.1:{port}/{page}"

    def serve_command(self, port: int = 5000) -> str:
        """The shell command that serves the link: this machine only, two processes instead of ten."""
        settings = [f"{name}={value}" for name, value in _TELEMETRY_OFF.items()]
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

    def _open_parent(self, study_name: str, tags: dict[str, str]) -> tuple[str, int]:
        # Compared here and not in the filter, because a study's name may hold quotes.
        for run in self._search("tags.`a2sf.role` = 'study'"):
            if run.data.tags.get("a2sf.study") == study_name:
                if run.info.lifecycle_stage == "deleted":
                    self._client.restore_run(run.info.run_id)
                return run.info.run_id, run.info.start_time
        tags |= {"a2sf.role": "study", "a2sf.study": study_name}
        run = self._client.create_run(self._experiment_id, run_name=study_name, tags=tags)
        return run.info.run_id, run.info.start_time

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

    def _write_child(self, trial: TrialRecord, half_written: _Child | None) -> _Child:
        """Create, fill, close. A run and its tags are created at once, so a killed child is found again."""
        started = trial.started_ms or self._parent_started_ms
        ended = max(trial.ended_ms, started)
        child = half_written or self._create_child(trial, started)
        if child.deleted:
            return child
        # A fixed time stamp: MLflow drops a value it already holds, so filling twice leaves one value.
        self._client.log_batch(child.run_id, _metrics(trial.metrics, ended), _params(trial.params))
        if len(trial.policy_json) > _TAG_LIMIT:
            self._client.log_text(child.run_id, trial.policy_json, "policy.json")
        status = "FINISHED" if trial.state == "complete" else "FAILED"
        self._client.set_terminated(child.run_id, status, end_time=ended)
        child.ended = True
        self._move_tags(child, _group_tags(trial))
        return child

    def _create_child(self, trial: TrialRecord, started_ms: int) -> _Child:
        tags = {**trial.tags, **_group_tags(trial), "mlflow.parentRunId": self._parent_id}
        tags |= {"a2sf.trial": str(trial.number), "a2sf.label": trial.label}
        if len(trial.policy_json) <= _TAG_LIMIT:
            tags["a2sf.policy"] = trial.policy_json
        if trial.error:
            tags["mlflow.note.content"] = trial.error[:_TAG_LIMIT]
        run = self._client.create_run(self._experiment_id, started_ms, tags, run_name=_run_name(trial))
        return _Child(run.info.run_id, ended=False, deleted=False, tags=tags)

    def _move_tags(self, child: _Child, wanted: dict[str, str]) -> None:
        for name, value in wanted.items():
            if child.tags.get(name) != value:
                self._client.set_tag(child.run_id, name, value)
                child.tags[name] = value

    def _log_regressor(self, regressor: Any, example: DataFrame | None) -> None:
        """Log a scikit-learn model that loads without a pickle.

        Step by step through the client: ``mlflow.sklearn.log_model`` would go through the process-wide
        tracking address, experiment and active run, which belong to the user.
        """
        from importlib.metadata import version

        import mlflow.sklearn
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, infer_signature

        signature = None if example is None else infer_signature(example, regressor.predict(example))
        packages = ("scikit-learn", "skops", "numpy", "pandas")
        ours = f"source_run_id = '{self._parent_id}'"
        older = self._client.search_logged_models([self._experiment_id], filter_string=ours)
        logged = self._client.create_logged_model(self._experiment_id, "regressor", self._parent_id)
        with tempfile.TemporaryDirectory() as folder:
            mlflow.sklearn.save_model(
                regressor,
                f"{folder}/model",
                mlflow_model=Model(run_id=self._parent_id, model_id=logged.model_id),
                signature=signature,
                input_example=example,
                # Named here, because working them out takes MLflow ten seconds.
                pip_requirements=[f"{name}=={version(name)}" for name in packages],
                skops_trusted_types=_sklearn_types(regressor),
            )
            self._client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(self._parent_id, [LoggedModelOutput(logged.model_id, step=0)])
        for model in older:
            self._client.delete_logged_model(model.model_id)

    # ---- around every call ---------------------------------------------------------------------------------

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keep MLflow quiet, and turn a folder or database that cannot be written into one clear sentence."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Asked up front: MLflow itself retries a locked or read-only database for minutes.
            tempfile.TemporaryFile(dir=self._folder).close()
            with closing(sqlite3.connect(self._database, timeout=_LOCK_WAIT_S)) as database:
                database.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error) as error:
            self._explain(error)
            raise
        with _quiet():
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import DBAPIError

            try:
                yield
            except (PermissionError, MlflowException, DBAPIError) as error:
                self._explain(error)
                raise

    def _explain(self, error: Exception) -> None:
        """Raise the sentence for a fault that the user can mend."""
        text = str(error)
        if "database is locked" in text:
            raise A2SFError(
                f"Another program holds the tracking database {self._database}: "
                "close it (a second run, a database browser) and run the same command again."
            ) from error
        if "not a database" in text or "image is malformed" in text:
            raise A2SFError(
                f"The tracking database {self._database} is damaged: "
                "delete it and run the same command again; it is rebuilt from the study."
            ) from error
        unwritable = ("readonly database", "unable to open database", "disk is full")
        if isinstance(error, OSError) or any(words in text for words in unwritable):
            reason = getattr(error, "strerror", None) or text.split("\n")[0]
            raise A2SFError(
                f"Cannot write the tracking folder {self._folder} ({reason}): "
                "give this user write access and free space there, or choose another run folder."
            ) from error


@functools.cache
def _open_database(path: Path) -> MlflowClient:
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
        """Six commits a trial cost 100 ms on a busy disk. A kill loses nothing without the wait; a power cut might."""
        ours = isinstance(connection, sqlite3.Connection)
        if ours and connection.execute("PRAGMA database_list").fetchone()[2] == str(path):
            connection.execute("PRAGMA synchronous = OFF")

    return MlflowClient(tracking_uri=f"sqlite:///{path}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Import MLflow without telemetry, and silence it for the length of one call only."""
    os.environ.update(_TELEMETRY_OFF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401  (its import sets the level of its own logger, so it must come first)

        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)  # faults reach the user as exceptions, not as log lines
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _run_name(trial: TrialRecord) -> str:
    return f"trial-{trial.number:03d}" if trial.label == "search" else f"baseline {trial.label}"


def _group_tags(trial: TrialRecord) -> dict[str, str]:
    """The tags that may change while a study goes on."""
    searched = "search" if trial.label == "search" else "baseline"
    group = "failed" if trial.state != "complete" else "front" if trial.pareto else searched
    return {"a2sf.pareto": str(trial.pareto).lower(), "a2sf.group": _GROUPS[group]}


def _metrics(values: Mapping[str, float], time_ms: int) -> list[Any]:
    """Finite values only: MLflow stores infinity as 1.8e308, and one such point flattens every chart."""
    from mlflow.entities import Metric

    finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    return [Metric(name, value, time_ms, 0) for name, value in finite.items()]


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)) for name, value in values.items()]


def _sklearn_types(regressor: Any) -> list[str]:
    """The classes of scikit-learn itself that skops does not trust unasked, such as trees; no others."""
    from skops.io import dumps, get_untrusted_types

    return [name for name in get_untrusted_types(data=dumps(regressor)) if name.startswith("sklearn.")]
