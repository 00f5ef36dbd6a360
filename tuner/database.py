"""One database for several processes: SQLite on one machine, or PostgreSQL by its address."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, MetaData, create_engine, event, func, make_url, select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from a2sf_core.errors import A2SFError
from tuner.printing import without_password

METADATA = MetaData()
"""The tables of the service."""
FILE = "service.db"
_ONE_AT_A_TIME = 0x1A25F  # the advisory lock of PostgreSQL under which jobs are handed out
_SQLITE: dict[str, Any] = {"timeout": 30.0}  # seconds for another process's write
# An address that swallows packets, or a machine that is cut off, would otherwise be waited for for minutes or hours.
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3
}  # fmt: skip
GONE = (OperationalError, InterfaceError)
"""What SQLAlchemy raises while the database is away."""
Found = TypeVar("Found")


class Database:
    """Reads and writes in short transactions, each done again while the database is away.

    Args:
        address: `postgresql://USER@HOST/NAME` or `sqlite:///FILE`.
        patience: seconds for which a transaction is tried again.
        option: by which the user gave the address.
        tables: that are made if they are not there.

    Raises:
        A2SFError: for an address of something else, or if nothing answers there.
    """

    def __init__(
        self, address: str, patience: float = 10.0, option: str = "--database", tables: MetaData = METADATA
    ) -> None:
        self._patience, self._tables = patience, tables
        self._engine = _engine(address, option)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        try:
            self._make_tables()
        except DBAPIError as error:
            raise _cannot_be_used(self._engine, error, option) from None

    @property
    def shown(self) -> str:
        """The address without a password."""
        return shown_url(self._engine.url)

    def _make_tables(self) -> None:
        try:
            self._tables.create_all(self._engine)
        except DBAPIError:  # another process made them between the look and the making
            time.sleep(0.5)
            self._tables.create_all(self._engine)

    def read(self, work: Callable[[Connection], Found]) -> Found:
        """What `work` finds."""
        return self._tried(work, reads_only=True)

    def write(self, work: Callable[[Connection], Found]) -> Found:
        """Let `work` write, whole or not at all. It may be called again, so it must bear that."""
        return self._tried(work, reads_only=False)

    def _tried(self, work: Callable[[Connection], Found], *, reads_only: bool) -> Found:
        began, pause = time.monotonic(), 0.05
        while True:
            try:
                with self._engine.connect().execution_options(a2sf_reads=reads_only) as connection, connection.begin():
                    return work(connection)
            except GONE:
                if time.monotonic() - began + pause > self._patience:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def now(self, connection: Connection) -> float:
        """Seconds since 1970 by the database's clock, which all machines share."""
        if self.is_sqlite:
            return time.time()
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

    def one_at_a_time(self, connection: Connection) -> None:
        """Until the end of this transaction no other process is past this line. On SQLite no other one writes anyway.

        Handing out jobs counts those that run, so it is done one after the other: SKIP LOCKED would let two workers
        count the same, and both take the last one that an owner may have.
        """
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()


def default_address(data: Path) -> str:
    """The embedded database of a data folder."""
    return f"sqlite:///{data.resolve() / FILE}"


def check_answers(address: str, option: str) -> None:
    """Raise A2SFError, naming `option`, unless a database answers at `address`. Nothing is written there."""
    engine = _engine(address, option)
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise _cannot_be_used(engine, error, option) from None
    finally:
        engine.dispose()


def _cannot_be_used(engine: Engine, error: DBAPIError, option: str) -> A2SFError:
    said = " ".join(str(error.orig).split())[:200].rstrip(".")
    return A2SFError(f"the database {shown_url(engine.url)} cannot be used ({said}); start it, or check {option}.")


def shown_url(url: URL) -> str:
    """The address without a password."""
    return without_password(url.render_as_string(hide_password=True))


def url_of(address: str, option: str) -> tuple[URL, dict[str, Any]]:
    """The address as SQLAlchemy takes it, and what its driver must be told.

    Raises:
        A2SFError: naming `option`, for an address of something else.
    """
    mend = "give postgresql://USER@HOST/NAME or sqlite:///FILE."
    try:
        url = make_url(address)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() not in ("postgresql", "sqlite"):
            raise A2SFError(f"{option} is for {url.get_backend_name()!r}; {mend}")
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise A2SFError(f"{option} is {address!r}, which no other process can see; {mend}")
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError):
        raise A2SFError(f"{option} is no address of a database; {mend}") from None
    except ModuleNotFoundError:
        raise A2SFError("PostgreSQL needs psycopg; install it with: pip install 'a2sf-tune[postgresql]'.") from None
    return url, _SQLITE if url.get_backend_name() == "sqlite" else _POSTGRESQL


def _engine(address: str, option: str) -> Engine:
    url, limits = url_of(address, option)
    engine = create_engine(url, pool_pre_ping=True, connect_args=limits)
    if limits is _SQLITE:
        event.listen(engine, "connect", _as_several_processes_need_it)
        event.listen(engine, "begin", _begin)
    return engine


def _as_several_processes_need_it(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, see `_begin`
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail where another one wrote between.
    reads = connection.get_execution_options().get("a2sf_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
