"""Many runs in one transaction, through MLflow's own table models.

The client takes six transactions and some thirty statements for each run, 20 to 40 ms; a trial on a small model
takes no longer than that. These models are not public, so `write` answers False where they are not as expected,
and the caller goes through the client.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.tracking.child import ChildRun

if TYPE_CHECKING:
    from sqlalchemy import Engine


def run_id(parent_id: str, trial: int) -> str:
    """The same id whenever asked, so that a run written twice is still one run."""
    return uuid.uuid5(uuid.UUID(parent_id), str(trial)).hex


def write(
    database: Path, parent_id: str, runs: Mapping[str, ChildRun], moved_tags: Sequence[tuple[str, str, str]]
) -> bool:
    """Add whole runs and change tags, all or nothing.

    Args:
        database: the SQLite file; its tables exist.
        parent_id: run id of the study, which the client has written.
        runs: the new runs by id; those that are there already stay as they are.
        moved_tags: run id, name and new value of tags to change. One that the user has removed stays away.

    Returns:
        Whether it was done. False: this MLflow keeps its runs in another way, and nothing was written.
    """
    from sqlalchemy import bindparam, select, update
    from sqlalchemy.dialects.sqlite import insert
    from sqlalchemy.exc import CompileError, IntegrityError

    try:
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag

        with _engine(database).begin() as connection:
            found = connection.execute(select(SqlRun.__table__).where(SqlRun.run_uuid == parent_id)).mappings()
            parent = found.one_or_none()
            if parent is None:
                return False
            rows: dict[Any, Sequence[Mapping[str, Any]]] = {
                # Columns that are not named here are whatever the client has written for the parent.
                SqlRun: [_run_row(dict(parent), key, run) for key, run in runs.items()],
                SqlParam: _rows(runs, "params"),
                SqlTag: _rows(runs, "tags"),
                SqlMetric: _metric_rows(runs),
                SqlLatestMetric: _metric_rows(runs),
            }
            for model, values in rows.items():
                if values:
                    connection.execute(insert(model.__table__).on_conflict_do_nothing(), values)
            if moved_tags:
                one = (SqlTag.run_uuid == bindparam("run")) & (SqlTag.key == bindparam("name"))
                change = update(SqlTag.__table__).where(one).values(value=bindparam("new"))
                connection.execute(change, [dict(zip(("run", "name", "new"), tag, strict=True)) for tag in moved_tags])
    except (ImportError, AttributeError, CompileError, IntegrityError):  # a model, a column, a constraint has changed
        return False
    return True


@functools.cache
def _engine(database: Path) -> Engine:
    """Kept, because it remembers its compiled statements; its connections are not, for the folder may be deleted."""
    from sqlalchemy import URL, NullPool, create_engine

    return create_engine(URL.create("sqlite", database=str(database)), poolclass=NullPool)


def _run_row(parent: dict[str, object], key: str, run: ChildRun) -> dict[str, object]:
    return parent | {
        "run_uuid": key,
        "name": run.name,
        "status": run.status,
        "start_time": run.started_ms,
        "end_time": run.ended_ms,
        "artifact_uri": str(parent["artifact_uri"]).replace(str(parent["run_uuid"]), key),
        "lifecycle_stage": "active",
        "deleted_time": None,
    }


def _rows(runs: Mapping[str, ChildRun], what: str) -> list[dict[str, str]]:
    return [
        {"run_uuid": key, "key": name, "value": value}
        for key, run in runs.items()
        for name, value in getattr(run, what).items()
    ]


def _metric_rows(runs: Mapping[str, ChildRun]) -> list[dict[str, object]]:
    return [
        {"run_uuid": key, "key": name, "value": value, "timestamp": run.ended_ms, "step": 0, "is_nan": False}
        for key, run in runs.items()
        for name, value in run.metrics.items()
    ]
