"""Who comes in: whoever has a token or the cookie of the page, and this machine where that is allowed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from a2sf_core.serve.bounds import bearer_token, comes_from_here, is_loopback
from tuner.service.problems import Problem
from tuner.service.tokens import LOCAL, Tokens

COOKIE = "a2sf_token"
_OPEN = ("/", "/healthz", "/session", "/openapi.json")
_OPEN_FOLDER = "/page/"
_READS = ("GET", "HEAD", "OPTIONS")
_SAFE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


@dataclass(frozen=True)
class Gate:
    """An ASGI application that writes the owner into `scope["state"]` or answers 401.

    Attributes:
        inner: what is behind.
        tokens: whose they are.
        trusts_loopback: whether clients on this machine need none.
    """

    inner: ASGIApp
    tokens: Tokens
    trusts_loopback: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or say why not."""
        if scope["type"] != "http":
            return

        async def safely(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))  # type: ignore[call-overload]
                there = {name.lower() for name, _ in headers}
                message["headers"] = headers + [(k, v) for k, v in _SAFE.items() if k not in there]
            await send(message)

        try:
            owner = await self._owner(Request(scope))
        except Problem as problem:
            await problem.response()(scope, receive, safely)  # type: ignore[arg-type]
            return
        scope.setdefault("state", {})["owner"] = owner
        await self.inner(scope, receive, safely)  # type: ignore[arg-type]

    async def _owner(self, request: Request) -> str | None:
        """The owner; None on the paths that are open to all.

        Raises:
            Problem: 401, or 403 for a request that another site's page has sent in the name of whoever looks at it.
        """
        token = bearer_token(request)
        if token is not None:
            owner = await self._of(token)
        else:
            _check_origin(request)
            cookie = request.cookies.get(COOKIE)
            owner = await self._of(cookie) if cookie else None
            if owner is None and self.trusts_loopback and comes_from_here(request):
                _check_host(request)
                owner = LOCAL
        path = request.scope["path"]
        if owner is None and path not in _OPEN and not path.startswith(_OPEN_FOLDER):
            raise Problem(401, "a token is needed: send it as `Authorization: Bearer TOKEN`, or sign in on the page.")
        return owner

    async def _of(self, token: str) -> str | None:
        holds, owner = self.tokens.remembered(token)
        return owner if holds else await asyncio.to_thread(self.tokens.owner_of, token)


def _check_origin(request: Request) -> None:
    """A browser says which page a request comes from; a bearer token is no browser's to send by itself."""
    origin = request.headers.get("origin")
    if request.method in _READS or origin is None:
        return
    if urlsplit(origin).netloc != request.headers.get("host", ""):
        raise Problem(403, "this request comes from another site's page; send a bearer token.")


def _check_host(request: Request) -> None:
    """A name that leads to this machine may be another site's, whose page would then read ours."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        raise Problem(403, "without a token come to this machine as 127.0.0.1 or localhost.")
