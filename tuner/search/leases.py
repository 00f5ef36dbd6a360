"""Who does what of a study that many workers share: its trials, by number, and what is to be done once.

Each is lent to one worker for a while, which renews its leases while it lives; after that it is lent again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Float,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    case,
    func,
    insert,
    select,
    update,
)  # fmt: skip
from sqlalchemy.engine import Connection

from tuner.database import Database

LEASE = 30.0
"""Seconds that a worker may be silent before what it does goes to another."""
TRIAL, PREPARE, CONCLUDE = "trial", "prepare", "conclude"
"""What there is to do: the trials; what shapes the search, before them; the result, after them."""
_IDENTITY = "identity"

STUDY_TABLES = MetaData()
LEASES = Table(
    "a2sf_leases",
    STUDY_TABLES,
    Column("study", String(200), primary_key=True),
    Column("what", String(20), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False, default=""),  # of a trial that the study begins with
    Column("worker", String(300), nullable=False),
    Column("attempt", Integer, nullable=False, default=1),
    Column("lease_until", Float, nullable=False),
    Column("done", Boolean, nullable=False, default=False),
    Column("said", Text, nullable=False, default=""),  # by whoever did it, to the others
)


@dataclass(frozen=True)
class Lease:
    """Something that is lent to this worker."""

    what: str
    number: int
    attempt: int = 1
    label: str = ""


@dataclass(frozen=True)
class Taken:
    """Something that another worker does, or has `done`, and what that one said of it."""

    worker: str
    done: bool
    said: str


class Leases:
    """What one worker does with the table.

    Args:
        study: its name.
        worker: a name that stays the same when this worker's command is started again, and that no other one has.
        length: seconds that it may be silent.
    """

    def __init__(self, database: Database, study: str, worker: str, length: float = LEASE) -> None:
        self._database, self._study, self._worker, self._length = database, study, worker, length

    def agree(self, identity: str) -> str:
        """What the first worker of the study said that it is."""

        def work(connection: Connection) -> str:
            self._database.one_at_a_time(connection)
            known = connection.scalar(select(LEASES.c.said).where(self._all_of(_IDENTITY)))
            if known is None:
                values = {"study": self._study, "what": _IDENTITY, "number": 0, "worker": self._worker}
                connection.execute(insert(LEASES).values(**values, lease_until=0.0, done=True, said=identity))
            return identity if known is None else str(known)

        return self._database.write(work)

    def claim_trials(self, goal: int, most: int, labels: Sequence[str]) -> list[Lease] | None:
        """Up to `most` of the trials that are missing to `goal`: those of workers that fell silent, then new ones.

        New ones have the first of the `labels` that no trial had yet. None if others are at work on all that is
        missing; empty if nothing is.
        """
        return self._database.write(lambda connection: self._claim_trials(connection, goal, most, labels))

    def _claim_trials(self, connection: Connection, goal: int, most: int, labels: Sequence[str]) -> list[Lease] | None:
        self._database.one_at_a_time(connection)
        now = self._database.now(connection)
        of_study = self._all_of(TRIAL)
        late = select(LEASES).where(of_study, ~LEASES.c.done, LEASES.c.lease_until < now)
        got = [
            # One that this worker has not among its own, say of a warm start, becomes the sampler's.
            self._lend_again(connection, row, now, label=row.label if row.label in labels else "")
            for row in connection.execute(late.order_by(LEASES.c.number).limit(most)).all()
        ]
        counted = select(func.count(), func.coalesce(func.sum(case((LEASES.c.done, 1), else_=0)), 0)).where(of_study)
        n, n_done = connection.execute(counted).one()
        known = set(connection.scalars(select(LEASES.c.label).where(of_study, LEASES.c.label != "")))
        waiting = [label for label in labels if label not in known]
        for number in range(n, min(goal, n + most - len(got))):
            lease = Lease(TRIAL, number, label=waiting.pop(0) if waiting else "")
            self._lend(connection, lease, now)
            got.append(lease)
        return None if not got and n_done < n else got

    def claim_once(self, what: str, number: int = 0, said: str = "") -> Lease | Taken:
        """What is to be done by one worker. This worker gets again what it had, done or not: it was started anew."""
        return self._database.write(lambda connection: self._claim_once(connection, Lease(what, number), said))

    def _claim_once(self, connection: Connection, lease: Lease, said: str) -> Lease | Taken:
        self._database.one_at_a_time(connection)
        now = self._database.now(connection)
        row = connection.execute(select(LEASES).where(self._one(lease))).first()
        if row is None:
            self._lend(connection, lease, now, said=said)
            return lease
        if row.worker == self._worker or (not row.done and row.lease_until < now):
            return self._lend_again(connection, row, now, done=False, said=said)
        return Taken(row.worker, row.done, row.said)

    def look(self, what: str, number: int = 0) -> Taken | None:
        """Whoever has done it or is at it; None if nobody is."""
        query = select(LEASES).where(self._one(Lease(what, number)))
        row = self._database.read(lambda connection: connection.execute(query).first())
        return Taken(row.worker, row.done, row.said) if row else None

    def _lend(self, connection: Connection, lease: Lease, now: float, **values: str) -> None:
        key = {"study": self._study, "what": lease.what, "number": lease.number}
        lent = {"label": lease.label, "worker": self._worker, "lease_until": now + self._length}
        connection.execute(insert(LEASES).values(**key, **lent, **values))

    def _lend_again(self, connection: Connection, row: Row[tuple[object, ...]], now: float, **values: object) -> Lease:
        again = Lease(row.what, row.number, row.attempt + 1, str(values.get("label", row.label)))
        lent = {"worker": self._worker, "attempt": again.attempt, "lease_until": now + self._length}
        connection.execute(update(LEASES).where(self._one(again)).values(**lent, **values))
        return again

    def renew(self, leases: Collection[Lease]) -> bool:
        """This worker lives. True if all of these are still its own; those that are not stay another's."""

        def work(connection: Connection) -> bool:
            until = {"lease_until": self._database.now(connection) + self._length}
            changed = [connection.execute(update(LEASES).where(self._mine(each)).values(until)) for each in leases]
            return all(each.rowcount for each in changed)

        return self._database.write(work)

    def finish(self, lease: Lease, said: str = "") -> None:
        """It is done; nothing happens if it is another worker's by now."""
        done = update(LEASES).where(self._mine(lease)).values(done=True, said=said)
        self._database.write(lambda connection: connection.execute(done))

    def give_back(self, leases: Collection[Lease]) -> None:
        """This worker ends before they were done: others may have them at once."""

        def work(connection: Connection) -> None:
            for lease in leases:
                connection.execute(update(LEASES).where(self._mine(lease)).values(lease_until=0.0))

        self._database.write(work)

    def _all_of(self, what: str) -> ColumnElement[bool]:
        return and_(LEASES.c.study == self._study, LEASES.c.what == what)

    def _one(self, lease: Lease) -> ColumnElement[bool]:
        return and_(self._all_of(lease.what), LEASES.c.number == lease.number)

    def _mine(self, lease: Lease) -> ColumnElement[bool]:
        loan = and_(LEASES.c.worker == self._worker, LEASES.c.attempt == lease.attempt)
        return and_(self._one(lease), loan, ~LEASES.c.done)
