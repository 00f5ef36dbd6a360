"""The table of jobs, as those see it who ask for them: put in, looked at, cancelled, removed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.engine import Connection

from tuner.database import METADATA, Database

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
ENDED = (DONE, FAILED, CANCELLED)

JOBS = Table(
    "a2sf_jobs",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("owner", String(100), nullable=False),
    Column("asked", JSON, nullable=False),  # what the owner sent
    Column("task", JSON, nullable=False),  # what the job's process is told
    Column("state", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("worker", String(200), nullable=False, default=""),
    Column("lease_until", Float, nullable=False, default=0.0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("cancel", Boolean, nullable=False, default=False),
    Column("deaths", Integer, nullable=False, default=0),  # without having come further between
    Column("mark", BigInteger, nullable=False, default=0),  # how far this attempt has come
    Column("furthest", BigInteger, nullable=False, default=-1),  # how far any attempt had come that ended in a death
    Column("progress", JSON),
    Column("said", JSON),
    Column("log", Text, nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("result", JSON),
    Column("bytes", BigInteger, nullable=False, default=0),
    Column("version", Integer, nullable=False, default=0),  # grows with every change
    Index("a2sf_jobs_by_owner", "owner", "kind", "created"),
    Index("a2sf_jobs_by_state", "state", "lease_until"),
)


@dataclass(frozen=True)
class Job:
    """One row as a reader sees it. Times are seconds since 1970, `bytes` what its folder holds."""

    id: str
    kind: str
    owner: str
    asked: Mapping[str, Any]
    state: str
    created: float
    started: float | None
    ended: float | None
    progress: Mapping[str, Any] | None
    said: Sequence[str]
    log: str
    error: str
    result: Mapping[str, Any] | None
    cancel: bool
    deaths: int
    version: int

    @property
    def has_ended(self) -> bool:
        """True if nothing more will come of it."""
        return self.state in ENDED


def new_id() -> str:
    """A name that nobody guesses: 120 random bits."""
    return secrets.token_hex(15)


class Jobs:
    """What owners do with the table. Everything takes the owner's name, and sees no other's rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, job_id: str, kind: str, owner: str, asked: Mapping[str, Any], task: Mapping[str, Any]) -> Job:
        """Add a job to the queue; once, also when asked again with the same `job_id`."""

        def work(connection: Connection) -> None:
            if connection.scalar(select(JOBS.c.id).where(JOBS.c.id == job_id)) is None:
                values: dict[str, Any] = {"id": job_id, "kind": kind, "owner": owner, "state": QUEUED}
                values |= {"asked": dict(asked), "task": dict(task), "created": self._database.now(connection)}
                connection.execute(insert(JOBS).values(**values))

        self._database.write(work)
        found = self.get(owner, kind, job_id)
        assert found is not None
        return found

    def get(self, owner: str, kind: str, job_id: str) -> Job | None:
        """The owner's job of that name; None for one of another's too."""

        def work(connection: Connection) -> Job | None:
            row = connection.execute(select(JOBS).where(_one(owner, kind, job_id))).first()
            return _job(row, self._database.now(connection)) if row else None

        return self._database.read(work)

    def version(self, owner: str, kind: str, job_id: str) -> int | None:
        """A number that grows whenever the job changes; None if there is none."""
        return self._database.read(lambda c: c.scalar(select(JOBS.c.version).where(_one(owner, kind, job_id))))

    def newest(self, owner: str, kind: str, most: int, before: float | None = None) -> list[Job]:
        """The owner's jobs, newest first; `before` goes on where an earlier page ended."""
        wanted = [JOBS.c.owner == owner, JOBS.c.kind == kind]
        wanted += [JOBS.c.created < before] if before is not None else []
        query = select(JOBS).where(*wanted).order_by(JOBS.c.created.desc(), JOBS.c.id).limit(most)

        def work(connection: Connection) -> list[Job]:
            now = self._database.now(connection)
            return [_job(row, now) for row in connection.execute(query)]

        return self._database.read(work)

    def unfinished(self, owner: str, kind: str) -> int:
        """How many of the owner's jobs wait or run."""
        query = select(func.count()).where(
            JOBS.c.owner == owner, JOBS.c.kind == kind, JOBS.c.state.in_((QUEUED, RUNNING))
        )
        return self._database.read(lambda c: c.scalar(query) or 0)

    def bytes_of(self, owner: str) -> int:
        """What the folders of the owner's ended jobs hold."""
        query = select(func.coalesce(func.sum(JOBS.c.bytes), 0)).where(JOBS.c.owner == owner)
        return int(self._database.read(lambda c: c.scalar(query)) or 0)

    def check(self) -> None:
        """Fail as any other question would, if the table cannot be read."""
        self._database.read(lambda c: c.execute(select(JOBS.c.id).limit(1)).first())

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs of all owners there are, by kind and state."""
        query = select(JOBS.c.kind, JOBS.c.state, func.count()).group_by(JOBS.c.kind, JOBS.c.state)
        return {(kind, state): n for kind, state, n in self._database.read(lambda c: c.execute(query).all())}

    def uses(self, owner: str, word: str) -> bool:
        """Whether one of the owner's unfinished jobs was asked for with `word` as its samples."""
        query = select(JOBS.c.asked).where(JOBS.c.owner == owner, JOBS.c.state.in_((QUEUED, RUNNING)))
        return any(asked.get("samples") == word for (asked,) in self._database.read(lambda c: c.execute(query).all()))

    def cancel(self, owner: str, kind: str, job_id: str) -> None:
        """End it: at once if no worker has it, else as soon as its worker hears of it."""

        def work(connection: Connection) -> None:
            now = self._database.now(connection)
            mine = _one(owner, kind, job_id)
            held = and_(JOBS.c.state == RUNNING, JOBS.c.lease_until >= now)
            free = or_(JOBS.c.state == QUEUED, and_(JOBS.c.state == RUNNING, JOBS.c.lease_until < now))
            changed = {"cancel": True, "version": JOBS.c.version + 1}
            connection.execute(update(JOBS).where(mine, held).values(**changed))
            connection.execute(update(JOBS).where(mine, free).values(**changed, state=CANCELLED, ended=now))

        self._database.write(work)

    def remove(self, owner: str, kind: str, job_id: str) -> bool:
        """Forget an ended job; False if it has not ended or is not there."""
        query = delete(JOBS).where(_one(owner, kind, job_id), JOBS.c.state.in_(ENDED))
        return bool(self._database.write(lambda c: c.execute(query).rowcount))


def _one(owner: str, kind: str, job_id: str) -> ColumnElement[bool]:
    return and_(JOBS.c.id == job_id, JOBS.c.owner == owner, JOBS.c.kind == kind)


def _job(row: Row[Any], now: float) -> Job:
    # One whose worker has died waits for another, whether or not one has noticed.
    state = QUEUED if row.state == RUNNING and row.lease_until < now else row.state
    return Job(
        row.id, row.kind, row.owner, row.asked, state, row.created, row.started, row.ended, row.progress,
        row.said or (), row.log, row.error, row.result, row.cancel, row.deaths, row.version,
    )  # fmt: skip
