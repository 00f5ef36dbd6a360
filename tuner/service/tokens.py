"""Who a token belongs to. Tokens are kept as hashes: whoever reads the table can use none."""

from __future__ import annotations

import hashlib
import re
import secrets
import time

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from a2sf_core.errors import A2SFError
from tuner.database import Database
from tuner.service.tables import TOKENS

LOCAL = "local"
"""Whoever comes without a token, where that is allowed."""
_REMEMBERED = 10.0  # seconds for which an answer holds without a look at the table
_MOST_REMEMBERED = 10_000
_OWNER = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)


class Tokens:
    """The table of tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, str | None]] = {}

    def add(self, owner: str) -> str:
        """A new token for `owner`, who may have others.

        Raises:
            A2SFError: for a name that is none.
        """
        if not _OWNER.fullmatch(owner):
            raise A2SFError(
                f"the owner {owner!r} has no usable name; expected 1 to 64 letters, digits or . _ @ -, a letter or "
                "digit first."
            )
        token = f"a2sf_{secrets.token_urlsafe(32)}"

        def work(connection: Connection) -> None:
            values = {"hash": _hash(token), "owner": owner, "created": self._database.now(connection)}
            connection.execute(insert(TOKENS).values(**values))

        self._database.write(work)
        return token

    def revoke(self, owner: str) -> int:
        """Forget all tokens of `owner`; how many there were."""
        return self._database.write(lambda c: c.execute(delete(TOKENS).where(TOKENS.c.owner == owner)).rowcount)

    def count(self) -> int:
        """How many tokens there are."""
        return self._database.read(lambda c: c.scalar(select(func.count()).select_from(TOKENS))) or 0

    def remembered(self, token: str) -> tuple[bool, str | None]:
        """Whether a recent answer still holds, and the owner that it named."""
        until, owner = self._known.get(_hash(token), (0.0, None))
        return time.monotonic() < until, owner

    def owner_of(self, token: str) -> str | None:
        """The owner of a token, from the table; None if there is no such token."""
        digest = _hash(token)
        owner = self._database.read(lambda c: c.scalar(select(TOKENS.c.owner).where(TOKENS.c.hash == digest)))
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = (time.monotonic() + _REMEMBERED, owner)
        return owner


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
