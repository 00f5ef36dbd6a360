"""What every server of ours asks of a request: where it comes from, which token it brings, how much and how fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address

from starlette.requests import Request


class TooLarge(Exception):
    """A body of more bytes than are taken."""


class TooSlow(Exception):
    """A body that did not come in time."""


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def comes_from_here(request: Request) -> bool:
    """Whether the client is on this machine."""
    return request.client is not None and is_loopback(request.client.host)


def bearer_token(request: Request) -> str | None:
    """What stands after `Bearer`; None if there is no such header."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def content_type(request: Request) -> str:
    """The type of the body, without parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def pieces(request: Request, most: int, seconds: float) -> AsyncIterator[bytes]:
    """The body, piece by piece, and no piece more once it is too long.

    Raises:
        TooLarge: as soon as the request says, or it turns out, that it has more than `most` bytes.
        TooSlow: if it takes longer than `seconds`.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > most:
        raise TooLarge
    count = 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                count += len(piece)
                if count > most:
                    raise TooLarge
                yield piece
    except TimeoutError:
        raise TooSlow from None
