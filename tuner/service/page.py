"""The page for people, and how one signs in on it: a cookie that its scripts cannot read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tuner.schemas import Name, Schema
from tuner.service.bodies import read_body
from tuner.service.desk import Desk
from tuner.service.gate import COOKIE
from tuner.service.problems import Problem

FOLDER = Path(__file__).parent / "page"
_DAY = 86_400


class _SignIn(Schema):
    token: Name


def add(app: FastAPI, desk: Desk) -> None:
    """/, its files under /page, and /session."""

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers={"Cache-Control": "no-cache"})

    @app.post("/session", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        body = await read_body(request, _SignIn, desk.limits.body)
        if await asyncio.to_thread(desk.tokens.owner_of, body.token) is None:
            raise Problem(401, "this token is not known here; check it, or ask whoever runs the service for one.")
        response = Response(status_code=204)
        # The service has no TLS itself; whatever stands before it with TLS is asked for over https.
        is_tls = request.headers.get("origin", "").startswith("https://")
        response.set_cookie(COOKIE, body.token, max_age=30 * _DAY, httponly=True, samesite="strict", secure=is_tls)
        return response

    @app.delete("/session", include_in_schema=False)
    def sign_out() -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    app.mount("/page", StaticFiles(directory=FOLDER), name="page")
