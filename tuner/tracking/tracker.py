"""MLflow as a run meets it: brought up to date now and then, never waited for, never the reason that a run ends.

What a visit could not send is sent by the next one. MLflow cannot follow a moved folder with a database in it: delete
`mlflow/` in it, and it is made anew.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from tuner.search.records import TrialRecord
from tuner.tracking.database import TELEMETRY_OFF, at_work, brief
from tuner.tracking.place import place_of
from tuner.tracking.runs import StudyRuns
from tuner.tracking.view import view_state

if TYPE_CHECKING:
    from pandas import DataFrame

HOLD_OFF_S = 30.0
"""After a visit that failed the next is so far away: a server that hangs takes 10 s to be given up."""


class Tracker:
    """The MLflow side of one study. Opening it again finds the same runs.

    Args:
        run_dir: the study's folder.
        experiment: name of the experiment in MLflow.
        study_name: name of the study's run.
        tags: further tags of that run.
        address: a tracking address; None for MLFLOW_TRACKING_URI or else a database in the folder.
        say: called with a sentence when MLflow does not take the runs, and when it does again.

    Raises:
        A2SFError: for an address that cannot be used, or a database in the folder that cannot be opened. A server that
            does not answer is only said.
    """

    def __init__(
        self,
        run_dir: Path,
        experiment: str,
        study_name: str,
        tags: Mapping[str, str] | None = None,
        address: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._place = place_of(run_dir, address)
        self._names = (run_dir, experiment, study_name, dict(tags or {}))
        self._say = say
        self._runs: StudyRuns | None = None
        self._trials: Sequence[TrialRecord] = ()
        self._view: Callable[[str], str] | None = None
        self._parent_id = self._experiment_id = ""
        self._is_silent, self._next_visit = False, 0.0
        if self._place.embedded:
            with at_work(self._place):
                self._open()
        else:
            self._visit(lambda _: None)

    # ---- what a study calls --------------------------------------------------------------------------------

    def sync(self, trials: Sequence[TrialRecord]) -> None:
        """Bring MLflow up to date with `trials`. Cheap enough to be called every few trials while a study runs."""
        self._trials = trials
        if time.monotonic() >= self._next_visit:
            self._visit(lambda runs: runs.sync(trials))

    def share_view(self, cache_metric: str, quality_metric: str, params: Sequence[str]) -> None:
        """Prepare the page that `link` opens: Pareto scatter and parallel coordinates of all trials."""
        self._view = lambda parent: json.dumps(view_state(parent, cache_metric, quality_metric, list(params)))
        if self._runs is not None:
            self._visit(self._set_view)

    def finish(
        self,
        summary: str,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        artifacts: Sequence[Path],
        regressor: Any = None,
        regressor_example: DataFrame | None = None,
    ) -> None:
        """Put the result on the study's run. Calling it again after more trials replaces the result."""

        def put(runs: StudyRuns) -> None:
            runs.sync(self._trials)
            runs.finish(summary, metrics, params, artifacts, regressor, regressor_example)

        if not self._visit(put):
            self._say(
                f"MLflow at {self._place.shown} lacks this result; the same command brings it up to date, without "
                "new trials."
            )

    def link(self, port: int = 5000) -> str:
        """The address of the prepared view, for a browser; empty if MLflow never answered.

        It is the server's own, or that of `serve_command` while it runs.
        """
        if not self._parent_id:
            return ""
        page = f"#/experiments/{self._experiment_id}/runs?workflowType=machine_learning"
        if self._view is not None:
            page += f"&compareRunsMode=CHART&viewStateShareKey={self._view_key}"
        base = self._place.shown if self._place.is_server else f"http://127.0.0.1:{port}"
        return f"{base}/{page}"

    def serve_command(self, port: int = 5000) -> str:
        """The shell command that serves the link: this machine only, two processes instead of ten. Empty if it is a
        server that takes the runs, which needs none."""
        if self._place.is_server:
            return ""
        settings = [f"{name}={value}" for name, value in TELEMETRY_OFF.items()]
        settings.append("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
        start = shlex.join([sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri"])
        # What is shown must hold no password.
        store = '"$MLFLOW_TRACKING_URI"' if self._place.has_password else shlex.quote(self._place.uri)
        return f"{' '.join(settings)} {start} {store} --host 127.0.0.1 --port {port}"

    @property
    def parent_run_id(self) -> str:
        """The MLflow run id of the study, for the export's evidence; empty if MLflow never answered."""
        return self._parent_id

    # ---- visits --------------------------------------------------------------------------------------------

    def _visit(self, work: Callable[[StudyRuns], None]) -> bool:
        """Do `work` with the runs, and say whether it was done. After a fault, what was written is looked up anew."""
        try:
            with at_work(self._place):
                # Forgotten until all is done: an interruption may fall between what MLflow notes and what we do.
                runs, self._runs = self._runs or self._open(), None
                if self._is_silent:
                    runs.sync(self._trials)
                work(runs)
                self._runs = runs
        except Exception as error:
            if not isinstance(error, (A2SFError, OSError)) and _package(error) not in ("mlflow", "sqlalchemy"):
                raise
            self._fail(error)
            return False
        if self._is_silent:
            self._say(f"MLflow at {self._place.shown} takes the runs again, and has all that it had missed.")
        self._is_silent = False
        return True

    def _fail(self, error: Exception) -> None:
        self._runs = None
        self._next_visit = time.monotonic() + HOLD_OFF_S
        if not self._is_silent:
            said = (
                str(error).strip().splitlines()[0]
                if isinstance(error, A2SFError)
                else (f"MLflow at {self._place.shown} does not take the runs ({brief(error, self._place)}).")
            )
            self._say(f"{said} The run goes on; MLflow gets the trials when that is mended.")
        self._is_silent = True

    def _open(self) -> StudyRuns:
        self._runs = runs = StudyRuns(self._place, *self._names)
        self._parent_id, self._experiment_id = runs.parent_id, runs.experiment_id
        self._set_view(runs)
        return runs

    def _set_view(self, runs: StudyRuns) -> None:
        if self._view is not None:
            runs.set_view(self._view_key, self._view(runs.parent_id))

    @property
    def _view_key(self) -> str:
        return f"a2sf-{self._parent_id[:8]}"


def _package(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]
