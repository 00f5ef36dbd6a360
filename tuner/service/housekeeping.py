"""What nobody asks for and somebody must do: folders that belong to nothing, validations that nobody reads any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.exc import DBAPIError

from tuner.service.desk import Desk
from tuner.service.places import SAMPLES as SAMPLES_FOLDER
from tuner.service.places import STUDIES
from tuner.service.tables import SAMPLES
from tuner.workers.jobs import ENDED, JOBS
from tuner.workers.words import VALIDATION

LOG = logging.getLogger("a2sf.service")
_EVERY = 3600.0
_OLD = 86_400.0  # seconds: nothing younger is touched, for it may be on its way into the table


class Housekeeping:
    """Done at the start and every hour."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._stop = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In a thread, for the length of the block."""
        thread = threading.Thread(target=self._work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.tidy()
            except (DBAPIError, OSError) as error:
                LOG.warning("housekeeping: %s", type(error).__name__)
            self._stop.wait(_EVERY)

    def tidy(self, old: float = _OLD) -> None:
        """Remove validations that ended `old` seconds ago, and folders of that age that no row names."""
        database, data = self._desk.database, self._desk.places.data
        before = time.time() - old
        gone = delete(JOBS).where(JOBS.c.kind == VALIDATION, JOBS.c.state.in_(ENDED), JOBS.c.ended < before)
        database.write(lambda c: c.execute(gone))
        for name, table in ((STUDIES, JOBS), (SAMPLES_FOLDER, SAMPLES)):
            aged = [path for path in (data / name).iterdir() if _age(path) < before]
            known = set(database.read(lambda c, table=table: c.scalars(select(table.c.id)).all()))  # type: ignore[misc]
            for path in aged:
                if path.name not in known:
                    self._desk.places.remove(path)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
