"""All tables of the service in one place, so that whoever opens the database first makes all of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, String, Table

from tuner.database import METADATA, Database
from tuner.workers import jobs, leases  # their tables belong to it

TOKENS = Table(
    "a2sf_tokens",
    METADATA,
    Column("hash", String(64), primary_key=True),  # SHA-256: a token is 256 random bits, which need no slow hash
    Column("owner", String(100), nullable=False),
    Column("created", Float, nullable=False),
)
SAMPLES = Table(
    "a2sf_samples",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Index("a2sf_samples_by_owner", "owner", "created"),
)
ALL = (TOKENS, SAMPLES, jobs.JOBS, leases.WORKERS)


def opened(address: str) -> Database:
    """The database, with its tables. Raises A2SFError as `Database` does."""
    return Database(address)
