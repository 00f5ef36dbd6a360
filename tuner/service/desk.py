"""What all routes work with, and what they ask of it before they do anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from tuner.database import Database
from tuner.service.limits import Limits
from tuner.service.orders import Orders
from tuner.service.places import Places
from tuner.service.problems import Problem
from tuner.service.spec import StudySpec
from tuner.service.tokens import Tokens
from tuner.service.uploads import Uploads
from tuner.workers.jobs import Job, Jobs, new_id


@dataclass(frozen=True)
class Desk:
    """The service behind its routes. `mlflow` is the address that the page leads to, if there is one."""

    database: Database
    jobs: Jobs
    tokens: Tokens
    uploads: Uploads
    orders: Orders
    places: Places
    limits: Limits
    mlflow: str

    @classmethod
    def of(cls, database: Database, places: Places, limits: Limits, mlflow: str) -> Desk:
        """All of it over one database."""
        jobs, uploads = Jobs(database), Uploads(database, places)
        orders = Orders(places, uploads, jobs, limits)
        return cls(database, jobs, Tokens(database), uploads, orders, places, limits, mlflow)

    def job(self, owner: str, kind: str, job_id: str) -> Job:
        """The owner's job. Raises Problem 404, for one of another's too."""
        found = self.jobs.get(owner, kind, job_id)
        if found is None:
            raise Problem(404, f"you have no {kind} {job_id[:40]!r}.")
        return found

    def used(self, owner: str) -> int:
        """Bytes of the owner's samples and ended studies."""
        return self.uploads.bytes_of(owner) + self.jobs.bytes_of(owner)

    def room_of(self, owner: str) -> int:
        """Bytes that the owner may still fill. Raises Problem 507 where nothing more may be taken in."""
        if self.places.free < self.limits.room:
            raise Problem(507, "the service has no room left on its disk; tell whoever runs it.")
        left = self.limits.disk - self.used(owner)
        if left <= 0:
            raise Problem(507, f"your samples and studies take all of your {self.limits.disk:,} bytes; remove some.")
        return left

    async def take_in(self, owner: str, kind: str, spec: StudySpec, most: int, full: str) -> Job:
        """Put a job into the queue, after its task and samples were read.

        Raises:
            A2SFError: in the command line's sentence.
            Problem: 429, which says `full`, if `most` of the owner's jobs of this kind are unfinished; 503; 507.
        """
        if await asyncio.to_thread(self.jobs.unfinished, owner, kind) >= most:
            raise Problem(429, full)
        await asyncio.to_thread(self.room_of, owner)
        job_id = new_id()
        task = await self.orders.make(owner, job_id, spec)
        return await asyncio.to_thread(self.jobs.put, job_id, kind, owner, spec.model_dump(), task)


def owner_of(request: Request) -> str:
    """Whoever has come through the gate."""
    owner = request.state.owner
    assert isinstance(owner, str)
    return owner
