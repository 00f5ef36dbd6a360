"""Samples that owners have sent: one folder each, named by us, whatever the file was called."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, select
from sqlalchemy.engine import Connection

from a2sf_core.errors import A2SFError
from a2sf_core.files import whole
from tuner.database import Database
from tuner.inputs.rows import FILE_SUFFIXES
from tuner.service.places import SAMPLES as FOLDER
from tuner.service.places import Places
from tuner.service.tables import SAMPLES
from tuner.workers.jobs import new_id

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}")
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Upload:
    """One file. `created` is seconds since 1970."""

    id: str
    name: str
    bytes: int
    created: float

    @property
    def path(self) -> str:
        """Where it lies in the data folder."""
        return f"{FOLDER}/{self.id}/{self.name}"


class Uploads:
    """The table of uploads and their files. Everything takes the owner's name, and sees no other's."""

    def __init__(self, database: Database, places: Places) -> None:
        self._database, self._places = database, places

    async def take(self, owner: str, name: str, pieces: AsyncIterator[bytes]) -> Upload:
        """Write what comes to a new folder; nothing is left of it if it breaks off.

        Raises:
            A2SFError: for a name that no file of samples has.
        """
        suffix = Path(name).suffix.lower()
        if not _NAME.fullmatch(name) or suffix not in FILE_SUFFIXES:
            raise A2SFError(
                f"the file is named {name!r}; expected letters, digits, spaces or . _ -, and an end of "
                f"{', '.join(FILE_SUFFIXES)}."
            )
        upload_id = new_id()
        folder = self._places.data / FOLDER / upload_id
        folder.mkdir()
        try:
            size = 0
            with whole(folder / name) as beside, beside.open("wb") as file:
                async for piece in pieces:
                    size += len(piece)
                    await asyncio.to_thread(file.write, piece)
            return await asyncio.to_thread(self._keep, owner, upload_id, name, size)
        except BaseException:
            self._places.remove(folder)
            raise

    def _keep(self, owner: str, upload_id: str, name: str, size: int) -> Upload:
        def work(connection: Connection) -> float:
            created = connection.scalar(select(SAMPLES.c.created).where(SAMPLES.c.id == upload_id))
            if created is None:
                created = self._database.now(connection)
                values = {"id": upload_id, "owner": owner, "name": name, "bytes": size, "created": created}
                connection.execute(insert(SAMPLES).values(**values))
            return float(created)

        return Upload(upload_id, name, size, self._database.write(work))

    def get(self, owner: str, upload_id: str) -> Upload | None:
        """The owner's upload of that name."""
        query = select(SAMPLES).where(and_(SAMPLES.c.id == upload_id, SAMPLES.c.owner == owner))
        row = self._database.read(lambda c: c.execute(query).first())
        return _upload(row) if row else None

    def newest(self, owner: str) -> Sequence[Upload]:
        """The owner's uploads, newest first."""
        query = select(SAMPLES).where(SAMPLES.c.owner == owner).order_by(SAMPLES.c.created.desc()).limit(_MOST_SHOWN)
        return [_upload(row) for row in self._database.read(lambda c: c.execute(query).all())]

    def bytes_of(self, owner: str) -> int:
        """What all of the owner's uploads take."""
        query = select(func.coalesce(func.sum(SAMPLES.c.bytes), 0)).where(SAMPLES.c.owner == owner)
        return int(self._database.read(lambda c: c.scalar(query)) or 0)

    def remove(self, owner: str, upload_id: str) -> bool:
        """Forget it; False if there is none."""
        query = delete(SAMPLES).where(and_(SAMPLES.c.id == upload_id, SAMPLES.c.owner == owner))
        there = bool(self._database.write(lambda c: c.execute(query).rowcount))
        if there:
            self._places.remove(self._places.data / FOLDER / upload_id)
        return there


def _upload(row: Row[Any]) -> Upload:
    return Upload(row.id, row.name, row.bytes, row.created)
