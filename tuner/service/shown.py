"""What the service answers with, as OpenAPI shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tuner.reporting.names import FRONT_FILE, PICTURES
from tuner.service.spec import EXAMPLE_ID
from tuner.service.uploads import Upload
from tuner.workers.jobs import Job

State = Literal["queued", "running", "done", "failed", "cancelled"]
_TIME = "2026-11-26T17:00:00+00:00"
_MOST_POINTS = 200


class ProgressShown(BaseModel):
    """How far the running step is. `seconds_left` is of this step, null until it can be said."""

    step: Annotated[str, Field(examples=["Trials"])]
    done: int
    total: int
    seconds_left: float | None


class Point(BaseModel):
    """One of the best trials so far: share of the cache kept, and KL to the full cache in nats per token."""

    label: str
    cache_fraction: float
    kl: float


class StudyRow(BaseModel):
    """A study as a list shows it. `asked` is what it was asked for with; `result` is there once it is done."""

    id: Annotated[str, Field(examples=[EXAMPLE_ID])]
    name: str
    state: State
    created: Annotated[str, Field(examples=[_TIME])]
    started: str | None
    ended: str | None
    asked: dict[str, Any]
    progress: ProgressShown | None
    error: str
    result: dict[str, Any] | None


class StudyShown(StudyRow):
    """A study with all that can be said of it. `log` holds the last lines of its process, for whoever mends a fault."""

    said: list[str]
    log: str
    front: list[Point]
    files: list[str]


class StudyPage(BaseModel):
    """Studies, newest first; `next` goes into `before` for the page after this one."""

    studies: list[StudyRow]
    next: float | None


class ValidationShown(BaseModel):
    """What `a2sf-tune validate` shows: pairs of a word and what it says."""

    id: Annotated[str, Field(examples=[EXAMPLE_ID])]
    state: State
    progress: ProgressShown | None
    error: str
    lines: list[tuple[str, str]]


class UploadShown(BaseModel):
    """A file of samples."""

    id: Annotated[str, Field(examples=[EXAMPLE_ID])]
    name: Annotated[str, Field(examples=["calls.jsonl"])]
    bytes: int
    created: Annotated[str, Field(examples=[_TIME])]

    @classmethod
    def of(cls, upload: Upload) -> UploadShown:
        """That of `upload`."""
        return cls(id=upload.id, name=upload.name, bytes=upload.bytes, created=_iso(upload.created))


class Advice(BaseModel):
    """Which alpha suits an input. `in_range`: its length is one that the study's regressor was fitted on."""

    alpha: Annotated[float, Field(examples=[0.9715])]
    half_life: Annotated[float | None, Field(description="In tokens; null where nothing is forgotten.")]
    tokens_range: tuple[int, int]
    in_range: bool
    task: str
    remark: str


class Me(BaseModel):
    """Who one is here, and how much of what one may have is used."""

    owner: str
    unfinished: int
    most_unfinished: int
    bytes: int
    most_bytes: int
    most_upload: int
    workers: int
    busy_workers: int
    mlflow: str


class Choices(BaseModel):
    """What a study may name."""

    tasks: dict[str, str]
    models: list[str]


def row_of(job: Job) -> StudyRow:
    """A study as a list shows it."""
    return StudyRow(**_row(job))


def study_of(job: Job, folder: Path) -> StudyShown:
    """A study with what lies in its folder."""
    files = [name for name in PICTURES if (folder / name).is_file()]
    return StudyShown(**_row(job), said=list(job.said), log=job.log, front=_front(folder), files=files)


def validation_of(job: Job) -> ValidationShown:
    """A validation."""
    lines = (job.result or {}).get("lines", [])
    progress = _progress(job)
    return ValidationShown(id=job.id, state=_state(job), progress=progress, error=job.error, lines=lines)


def read_front(folder: Path) -> Mapping[str, Any] | None:
    """What `tuner.reporting.front` wrote; None before that."""
    try:
        found = json.loads((folder / FRONT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    assert isinstance(found, dict)
    return found


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id, "name": str(job.asked.get("name", "")), "state": _state(job), "created": _iso(job.created),
        "started": _iso(job.started) if job.started else None, "ended": _iso(job.ended) if job.ended else None,
        "asked": job.asked, "progress": _progress(job), "error": job.error, "result": job.result,
    }  # fmt: skip


def _progress(job: Job) -> ProgressShown | None:
    return ProgressShown(**job.progress) if job.progress and not job.has_ended else None


def _state(job: Job) -> State:
    return job.state  # type: ignore[return-value]


def _front(folder: Path) -> list[Point]:
    trials = (read_front(folder) or {}).get("trials", [])
    best = sorted((each for each in trials if each["on_front"]), key=lambda each: float(each["cache_fraction"]))
    return [Point(**{name: each[name] for name in ("label", "cache_fraction", "kl")}) for each in best[:_MOST_POINTS]]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
