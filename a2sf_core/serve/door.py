"""Who may come in, and how much they may bring."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from a2sf_core.serve.bounds import TooLarge, TooSlow, bearer_token, comes_from_here, content_type, pieces
from a2sf_core.serve.refusal import Refusal

_OPEN = "/healthz"


@dataclass(frozen=True)
class Door:
    """An ASGI application that lets through whoever has the token.

    Attributes:
        inner: what is behind.
        token: None if nobody needs one, which the command allows on loopback only.
        trusts_loopback: whether clients on this machine need none.
    """

    inner: ASGIApp
    token: str | None
    trusts_loopback: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401."""
        if scope["type"] == "http" and scope["path"] != _OPEN and not self._may_enter(Request(scope)):
            refusal = Refusal(401, "a token is needed: send it as `Authorization: Bearer TOKEN`.", code="no_token")
            await refusal.response()(scope, receive, send)
            return
        await self.inner(scope, receive, send)

    def _may_enter(self, request: Request) -> bool:
        if self.trusts_loopback and comes_from_here(request):
            return True
        given = bearer_token(request)
        return self.token is not None and given is not None and hmac.compare_digest(given.encode(), self.token.encode())


async def bounded_body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        Refusal: 413 if it has more than `most` bytes, 408 if it takes longer than `seconds`, 415 if it is not JSON.
    """
    # A page in a browser cannot send this type to another origin without asking first.
    if content_type(request) != "application/json":
        raise Refusal(415, "send JSON with `Content-Type: application/json`.")
    try:
        return b"".join([piece async for piece in pieces(request, most, seconds)])
    except TooLarge:
        raise Refusal(413, f"the body has more than {most:,} bytes, which is this server's limit.") from None
    except TooSlow:
        raise Refusal(408, f"the body did not come within {seconds:g} s.") from None
