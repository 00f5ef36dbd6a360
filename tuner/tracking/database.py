"""MLflow at work: its database file whole and without waits for the disk, its noise off, its faults in one sentence."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from tuner.printing import without_password
from tuner.tracking.place import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

TELEMETRY_OFF = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""Or else two lines with emoji per run, where a server takes them."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_LOCK_WAIT_S = 3.0
_MAKING = ".making-"


def open_client(place: Place) -> MlflowClient:
    """MLflow's client; a SQLite file is made if there is none."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=place.uri) if place.database is None else _open_database(place)


@functools.cache
def _open_database(place: Place) -> MlflowClient:
    """MLflow makes a new database in some fifty steps, and cannot go on where it was stopped. So it does that beside
    its place, and what appears there is whole.
    """
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    path = place.database
    assert path is not None

    @event.listens_for(Engine, "connect")
    def do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
        """Six commits a trial cost 100 ms on a busy disk. A kill loses nothing without the wait; a power cut might."""
        if isinstance(connection, sqlite3.Connection):
            file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
            ours = place.embedded and file.is_relative_to(path.parent)  # others' databases are as they want them
            if ours and file.name == path.name:  # in its place, or in the making
                connection.execute("PRAGMA synchronous = OFF")

    if place.embedded:
        _clear_away(path)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_MAKING) as folder:
            MlflowClient(tracking_uri=f"sqlite:///{folder}/{path.name}")
            os.replace(f"{folder}/{path.name}", path)
    return MlflowClient(tracking_uri=place.uri)


def _clear_away(path: Path) -> None:
    """Remove what a kill left: a database half-made beside its place and, with `halves`, by earlier versions in it."""
    for folder in path.parent.glob(f"{_MAKING}*"):
        shutil.rmtree(folder, ignore_errors=True)
    if path.exists() and not _is_whole(path):
        path.unlink()


def _is_whole(path: Path) -> bool:
    """False if MLflow's steps did not come to the one that makes its first experiment: then there is no run in it."""
    with closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return "experiments" in tables and bool(connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone())


@contextmanager
def at_work(place: Place, fails: str = "does not take the runs") -> Iterator[None]:
    """Keep MLflow quiet, and turn a folder, database or server that cannot be used into one clear sentence.

    `fails` is what is said of a server that cannot do what is asked.
    """
    try:
        if place.embedded:
            assert place.database is not None
            place.database.parent.mkdir(parents=True, exist_ok=True)
        # Asked up front: MLflow itself retries what does not answer, is locked or read-only for minutes.
        if place.database is not None:
            tempfile.TemporaryFile(dir=place.database.parent).close()
            if place.database.exists():  # or else this would make it, empty
                with closing(sqlite3.connect(place.database, timeout=_LOCK_WAIT_S)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
        else:
            place.check_answers()
    except (OSError, sqlite3.Error) as error:
        _explain(error, place, fails)
        raise
    with _quiet(), _impatient():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except ModuleNotFoundError as error:
            if place.database is not None:
                raise
            raise A2SFError(
                f"MLflow needs {error.name} for {place.shown}: pip install 'psycopg[binary]' for PostgreSQL, or the "
                "driver that the address names."
            ) from error
        except (OSError, UnicodeDecodeError, sqlite3.Error, MlflowException, DBAPIError) as error:
            _explain(error, place, fails)
            raise


def _explain(error: Exception, place: Place, fails: str) -> None:
    """Raise the sentence for a fault that the user can mend."""
    text, database = str(error), place.database
    if database is None:
        raise A2SFError(f"MLflow at {place.shown} {fails} ({brief(error, place)}).") from error
    if "database is locked" in text:
        raise A2SFError(
            f"Another program holds the tracking database {database}: "
            "close it (a second run, a database browser) and run the same command again."
        ) from error
    if isinstance(error, UnicodeDecodeError) or "not a database" in text or "malformed" in text:
        mend = "delete it and run the same command again; it is rebuilt from the study."
        raise A2SFError(
            f"The tracking database {database} is damaged: {mend if place.embedded else 'give another one.'}"
        ) from error
    unwritable = ("readonly database", "unable to open database", "disk is full")
    if isinstance(error, OSError) or any(words in text for words in unwritable):
        raise A2SFError(
            f"Cannot write the tracking folder {database.parent} ({brief(error, place)}): "
            "give this user write access and free space there, or choose another run folder."
        ) from error


def brief(error: BaseException, place: Place) -> str:
    """What the system said, or else a library, on one line and without the password."""
    causes = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(deeper)
    of_system = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    said = of_system[-1] if of_system else str(error).strip().split("\n")[0] or type(error).__name__
    said = said.replace(place.uri, place.shown)
    return (without_password(said) if "://" in said else said)[:200].rstrip(".")


@contextmanager
def _impatient() -> Iterator[None]:
    """No retries and short waits, unless the user has set them: the next visit sends what this one could not."""
    ours = {name: value for name, value in IMPATIENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Import MLflow without telemetry, and silence it for the length of one call only."""
    os.environ.update(TELEMETRY_OFF | SILENT)
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
