"""The table of jobs, as workers see it: each is lent to one of them for a while, and lent again if that one dies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Column, Float, Integer, Row, String, Table, and_, case, delete, func, or_, select, update
from sqlalchemy.engine import Connection

from tuner.database import METADATA, Database
from tuner.workers.jobs import CANCELLED, DONE, FAILED, JOBS, QUEUED, RUNNING
from tuner.workers.words import STUDY, VALIDATION

LEASE = 30.0
"""Seconds that a worker may be silent before its job goes to another."""
DEATHS = 2
"""A job that ends its process so often, without having come further between, is given up."""

WORKERS = Table(
    "a2sf_workers",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("seen", Float, nullable=False),
    Column("busy", Integer, nullable=False, default=0),
)


class Word(Enum):
    """What a worker is told when it reports."""

    GO_ON = "go on"
    CANCEL = "cancel"
    LOST = "lost"


@dataclass(frozen=True)
class Claim:
    """A job that is lent. `attempt` tells this loan from earlier and later ones."""

    id: str
    kind: str
    task: Mapping[str, Any]
    attempt: int


@dataclass(frozen=True)
class Report:
    """How far a job is. `mark` grows as it goes on, from the same point in every attempt."""

    mark: int = 0
    progress: Mapping[str, Any] | None = None
    said: Sequence[str] = ()
    log: str = ""


@dataclass(frozen=True)
class Ending:
    """How a job ended: what it found, or the sentence that says why not."""

    result: Mapping[str, Any] | None = None
    error: str = ""
    n_bytes: int = 0


class Leases:
    """What one worker does with the table.

    Args:
        worker: a name that no other worker has.
        lease: seconds that it may be silent.
    """

    def __init__(self, database: Database, worker: str, lease: float = LEASE) -> None:
        self._database, self._worker, self.lease = database, worker, lease

    def beat(self, busy: bool) -> None:
        """Say that this worker lives."""

        def work(connection: Connection) -> None:
            now = self._database.now(connection)
            connection.execute(delete(WORKERS).where(or_(WORKERS.c.name == self._worker, WORKERS.c.seen < now - 3600)))
            connection.execute(WORKERS.insert().values(name=self._worker, seen=now, busy=int(busy)))

        self._database.write(work)

    def leave(self) -> None:
        """Say that this worker ends."""
        self._database.write(lambda c: c.execute(delete(WORKERS).where(WORKERS.c.name == self._worker)))

    def claim(self, per_owner: int) -> Claim | None:
        """The next job, lent to this worker; None if there is none that may run now.

        Validations come first, as somebody waits for them; then whoever has the fewest studies running, and the oldest
        of those. No owner has more than `per_owner` studies running.
        """
        if not self._database.read(self._is_there_one):
            return None
        return self._database.write(lambda connection: self._claim(connection, per_owner))

    def _is_there_one(self, connection: Connection) -> bool:
        late = and_(JOBS.c.state == RUNNING, JOBS.c.lease_until < self._database.now(connection))
        return connection.scalar(select(JOBS.c.id).where(or_(JOBS.c.state == QUEUED, late)).limit(1)) is not None

    def _claim(self, connection: Connection, per_owner: int) -> Claim | None:
        self._database.one_at_a_time(connection)
        now = self._database.now(connection)
        for row in connection.execute(select(JOBS).where(JOBS.c.state == RUNNING, JOBS.c.lease_until < now)).all():
            _bury(connection, row, now, f"its worker {row.worker} was silent for {self.lease:.0f} s")
        counted = select(JOBS.c.owner, func.count().label("n")).where(JOBS.c.state == RUNNING, JOBS.c.kind == STUDY)
        running: dict[str, int] = {row.owner: row.n for row in connection.execute(counted.group_by(JOBS.c.owner))}
        oldest = select(JOBS.c.owner, JOBS.c.kind, func.min(JOBS.c.created)).where(JOBS.c.state == QUEUED)
        waiting = [
            (kind != VALIDATION, running.get(owner, 0), created, owner, kind)
            for owner, kind, created in connection.execute(oldest.group_by(JOBS.c.owner, JOBS.c.kind)).all()
            if kind == VALIDATION or running.get(owner, 0) < per_owner
        ]
        if not waiting:
            return None
        *_, created, owner, kind = min(waiting)
        first = and_(JOBS.c.state == QUEUED, JOBS.c.owner == owner, JOBS.c.kind == kind, JOBS.c.created == created)
        row = connection.execute(select(JOBS).where(first).order_by(JOBS.c.id).limit(1)).one()
        lent = {"state": RUNNING, "worker": self._worker, "lease_until": now + self.lease, "mark": 0}
        lent |= {"started": row.started or now, "attempt": row.attempt + 1, "version": row.version + 1}
        connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**lent))
        return Claim(row.id, row.kind, row.task, row.attempt + 1)

    def report(self, claim: Claim, report: Report) -> Word:
        """Renew the lease and say how far the job is."""

        def work(connection: Connection) -> Word:
            now = self._database.now(connection)
            told = {"mark": report.mark, "progress": report.progress, "said": list(report.said), "log": report.log}
            changed = update(JOBS).where(self._mine(claim))
            if not connection.execute(
                changed.values(**told, lease_until=now + self.lease, version=JOBS.c.version + 1)
            ).rowcount:
                return Word.LOST
            return Word.CANCEL if connection.scalar(select(JOBS.c.cancel).where(self._mine(claim))) else Word.GO_ON

        return self._database.write(work)

    def finish(self, claim: Claim, ending: Ending) -> None:
        """The job has come to its end, good or bad; nothing happens if it is another worker's by now."""
        state = FAILED if ending.error else DONE
        self._end(claim, state=state, error=ending.error, result=ending.result, bytes=ending.n_bytes)

    def cancelled(self, claim: Claim, n_bytes: int) -> None:
        """The job was ended because its owner wanted it."""
        self._end(claim, state=CANCELLED, bytes=n_bytes)

    def _end(self, claim: Claim, **values: Any) -> None:
        def work(connection: Connection) -> None:
            ended = {"ended": self._database.now(connection), "version": JOBS.c.version + 1}
            connection.execute(update(JOBS).where(self._mine(claim)).values(**ended, **values))

        self._database.write(work)

    def give_back(self, claim: Claim) -> None:
        """The worker ends, and the job is as if it had not been lent."""
        state = case((JOBS.c.cancel, CANCELLED), else_=QUEUED)
        back = update(JOBS).where(self._mine(claim)).values(state=state, worker="", version=JOBS.c.version + 1)
        self._database.write(lambda connection: connection.execute(back))

    def died(self, claim: Claim, how: str) -> None:
        """The job's process has died: it waits for the next worker, or is given up."""

        def work(connection: Connection) -> None:
            row = connection.execute(select(JOBS).where(self._mine(claim))).first()
            if row is not None:
                _bury(connection, row, self._database.now(connection), how)

        self._database.write(work)

    def _mine(self, claim: Claim) -> Any:
        lent = and_(JOBS.c.id == claim.id, JOBS.c.worker == self._worker, JOBS.c.attempt == claim.attempt)
        return and_(lent, JOBS.c.state == RUNNING)


def workers(database: Database) -> tuple[int, int]:
    """How many workers live, and how many of them are busy."""

    def work(connection: Connection) -> tuple[int, int]:
        seen = database.now(connection) - 2 * LEASE
        alive = select(func.count(), func.coalesce(func.sum(WORKERS.c.busy), 0)).where(WORKERS.c.seen >= seen)
        count, busy = connection.execute(alive).one()
        return int(count), int(busy)

    return database.read(work)


def _bury(connection: Connection, row: Row[Any], now: float, how: str) -> None:
    """Count a death. One that came further than before is no sign that the job is at fault."""
    deaths = 1 if row.mark > row.furthest else row.deaths + 1
    values: dict[str, Any] = {"deaths": deaths, "furthest": max(row.mark, row.furthest), "version": row.version + 1}
    if row.cancel:
        values |= {"state": CANCELLED, "ended": now}
    elif deaths >= DEATHS:
        error = f"the job ended its process {deaths} times at the same place ({how}); its last lines are in `log`."
        values |= {"state": FAILED, "ended": now, "error": error}
    else:
        values |= {"state": QUEUED, "worker": ""}
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**values))
