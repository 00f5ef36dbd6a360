"""MLflow's database file: opened without waiting for the disk, kept quiet, its faults told in one sentence."""

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

if TYPE_CHECKING:
    from mlflow import MlflowClient

TELEMETRY_OFF = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_LOCK_WAIT_S = 3.0
_MAKING = ".making-"


@functools.cache
def open_database(path: Path) -> MlflowClient:
    """MLflow's client on the SQLite file `path`, made if there is none.

    MLflow makes a new database in some fifty steps, and cannot go on where it was stopped. So it does that beside
    `path`, and what appears there is whole.
    """
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
        """Six commits a trial cost 100 ms on a busy disk. A kill loses nothing without the wait; a power cut might."""
        if isinstance(connection, sqlite3.Connection):
            file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
            if file.name == path.name and file.is_relative_to(path.parent):  # in its place, or in the making
                connection.execute("PRAGMA synchronous = OFF")

    _clear_away(path)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_MAKING) as folder:
            MlflowClient(tracking_uri=f"sqlite:///{folder}/{path.name}")
            os.replace(f"{folder}/{path.name}", path)
    return MlflowClient(tracking_uri=f"sqlite:///{path}")


def _clear_away(path: Path) -> None:
    """Remove what a kill left: a database half-made beside its place or, by earlier versions, in it."""
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
def at_work(database: Path) -> Iterator[None]:
    """Keep MLflow quiet, and turn a folder or database that cannot be written into one clear sentence."""
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        # Asked up front: MLflow itself retries a locked or read-only database for minutes.
        tempfile.TemporaryFile(dir=database.parent).close()
        if database.exists():  # or else this would make it, empty
            with closing(sqlite3.connect(database, timeout=_LOCK_WAIT_S)) as connection:
                connection.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        _explain(error, database)
        raise
    with _quiet():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except (PermissionError, MlflowException, DBAPIError) as error:
            _explain(error, database)
            raise


def _explain(error: Exception, database: Path) -> None:
    """Raise the sentence for a fault that the user can mend."""
    text = str(error)
    if "database is locked" in text:
        raise A2SFError(
            f"Another program holds the tracking database {database}: "
            "close it (a second run, a database browser) and run the same command again."
        ) from error
    if "not a database" in text or "image is malformed" in text:
        raise A2SFError(
            f"The tracking database {database} is damaged: "
            "delete it and run the same command again; it is rebuilt from the study."
        ) from error
    unwritable = ("readonly database", "unable to open database", "disk is full")
    if isinstance(error, OSError) or any(words in text for words in unwritable):
        reason = getattr(error, "strerror", None) or text.split("\n")[0]
        raise A2SFError(
            f"Cannot write the tracking folder {database.parent} ({reason}): "
            "give this user write access and free space there, or choose another run folder."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Import MLflow without telemetry, and silence it for the length of one call only."""
    os.environ.update(TELEMETRY_OFF)
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
