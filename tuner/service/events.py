"""A study as a stream: its state whenever that has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pydantic import BaseModel

from tuner.workers.jobs import Job

_LOOK = 1.0  # seconds


async def changes(
    version: Callable[[], int | None], look: Callable[[], Job | None], shown: Callable[[Job], BaseModel]
) -> AsyncIterator[dict[str, str]]:
    """Events for sse-starlette, until the study has ended or is gone.

    Args:
        version: a number that grows with every change.
        look: the study.
        shown: what is sent of it.
    """
    seen = -1
    while True:
        now = await asyncio.to_thread(version)
        if now is None:
            return
        if now != seen:
            seen = now
            job = await asyncio.to_thread(look)
            if job is None:
                return
            yield {"event": "study", "data": (await asyncio.to_thread(shown, job)).model_dump_json()}
            if job.has_ended:
                return
        await asyncio.sleep(_LOOK)
