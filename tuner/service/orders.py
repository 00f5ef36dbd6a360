"""From what an owner asks for to what a job is told: names become paths, and everything is read once, as a check."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean
from a2sf_core.files import write_whole
from tuner.inputs.metrics import METRICS
from tuner.inputs.tasks import bundled_tasks
from tuner.service.job import CHECK, COMMAND
from tuner.service.limits import Limits
from tuner.service.places import STUDIES, Places
from tuner.service.problems import Problem
from tuner.service.spec import StudySpec
from tuner.service.uploads import Uploads
from tuner.workers.child import Child
from tuner.workers.jobs import Jobs
from tuner.workers.progress import Heard
from tuner.workers.words import STUDY

TASK_FILE = "task.yaml"
_CHECK_SECONDS = 120.0


@dataclass
class Orders:
    """Makes tasks for jobs. Nothing that a request says is imported, and no path is taken as it is."""

    places: Places
    uploads: Uploads
    jobs: Jobs
    limits: Limits
    _waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._checking = asyncio.Semaphore(self.limits.checks)

    async def make(self, owner: str, job_id: str, spec: StudySpec) -> Mapping[str, Any]:
        """What the job is told, after a process has read task and samples as the command line does.

        Raises:
            A2SFError: in the command line's sentence.
            Problem: 503 if too many wait for the check.
        """
        folder = self.places.study(job_id)
        try:
            task = await asyncio.to_thread(self._task, owner, job_id, spec)
            await self._check(task)
        except BaseException:
            await asyncio.to_thread(self.places.remove, folder)
            raise
        return task

    def _task(self, owner: str, job_id: str, spec: StudySpec) -> dict[str, Any]:
        folder = f"{STUDIES}/{job_id}"
        settings = spec.model_dump(exclude={"name", "samples", "data", "warm_start"}) | {
            "task": self._task_name(job_id, spec.task),
            "model": self.places.model(spec.model),
            "adapter": self.places.adapter(spec.adapter) if spec.adapter else None,
            "data": self._data(owner, spec),
            "warm_start": [self._earlier(owner, each) for each in spec.warm_start],
        }
        return {"folder": folder, "settings": settings}

    def _task_name(self, job_id: str, task: str | dict[str, Any]) -> str:
        """A bundled task's name; one that is written out goes into the job's folder."""
        known = bundled_tasks()
        if isinstance(task, str):
            if task not in known:
                hint = did_you_mean(task, known, f"the tasks are {', '.join(known)}, or write one out.")
                raise A2SFError(f"There is no task {task!r}; {hint}")
            return task
        _check_no_code(task, known)
        folder = self.places.study(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, but for characters beyond 16 bits, which are written as two halves: so none is escaped.
        write_whole(folder / TASK_FILE, json.dumps(task, ensure_ascii=False) + "\n")
        return f"{STUDIES}/{job_id}/{TASK_FILE}"

    def _data(self, owner: str, spec: StudySpec) -> str | None:
        if spec.samples:
            upload = self.uploads.get(owner, spec.samples)
            if upload is None:
                raise A2SFError(f"You have no samples {spec.samples!r}; upload them to /v1/samples first.")
            return upload.path
        return self.places.file(spec.data) if spec.data else None

    def _earlier(self, owner: str, job_id: str) -> str:
        if self.jobs.get(owner, STUDY, job_id) is None:
            raise A2SFError(f"warm_start: you have no study {job_id!r}; see /v1/studies.")
        return f"{STUDIES}/{job_id}"

    async def _check(self, task: Mapping[str, Any]) -> None:
        if self._waiting >= self.limits.checks_waiting:
            raise Problem(503, "too many studies are being taken in; come back in a moment.")
        self._waiting += 1
        try:
            async with self._checking:
                heard = await asyncio.to_thread(self._read, task)
        finally:
            self._waiting -= 1
        if heard.result is None:
            raise A2SFError(heard.error or "task and samples could not be read in time or memory; send fewer samples.")

    def _read(self, task: Mapping[str, Any]) -> Heard:
        """In a process of its own: a file of samples may be made to take all memory."""
        child, heard = Child(COMMAND, {"kind": CHECK, **task}, self.places.data), Heard()
        try:
            deadline = time.monotonic() + _CHECK_SECONDS
            while child.returncode() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            heard.take(child.messages())
        finally:
            child.kill()
        return heard


def _check_no_code(task: Mapping[str, Any], bundled: list[str]) -> None:
    """Raise A2SFError for what would read another file or import a module."""
    metric, include = task.get("metric"), task.get("include")
    if metric is not None and not (isinstance(metric, str) and metric in METRICS):
        said = "; a metric of one's own is code, which is not taken from a request" if ":" in str(metric) else ""
        hint = did_you_mean(metric, METRICS, f"expected one of {', '.join(METRICS)}.")
        raise A2SFError(f"task: field 'metric' is {str(metric)[:100]!r}{said}; {hint}")
    names = [f"{name}.yaml" for name in bundled]
    if include is not None and include not in names:
        hint = did_you_mean(include, names, f"here a task may include {', '.join(names)}.")
        raise A2SFError(f"task: field 'include' is {str(include)[:100]!r}; {hint}")
