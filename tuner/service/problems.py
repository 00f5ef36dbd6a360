"""What is said of a request that is not answered: problem+json (RFC 9457) with the command line's sentence."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse

from tuner.printing import one_line

MEDIA_TYPE = "application/problem+json"


class ProblemBody(BaseModel):
    """The body of every answer from 400 on."""

    model_config = ConfigDict(
        title="Problem",
        json_schema_extra={
            "example": {
                "type": "about:blank", "title": "Unprocessable Content", "status": 422,
                "detail": "There is no task 'sumarisation'; did you mean 'summarisation'?",
            }
        },
    )  # fmt: skip

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):
    """A request that is not answered, with the reason in one sentence."""

    def __init__(self, status: int, said: str) -> None:
        """An HTTP `status` and what the client is told."""
        super().__init__(said)
        self.status, self.said = status, said

    def response(self) -> JSONResponse:
        """The answer in its place."""
        headers = {"Cache-Control": "no-store"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"  # or the rest of the body would be read, if only to be thrown away
        if self.status in (429, 503):
            headers["Retry-After"] = "5"
        body = ProblemBody(
            type="about:blank", title=HTTPStatus(self.status).phrase, status=self.status, detail=one_line(self.said)
        )
        return JSONResponse(body.model_dump(), self.status, headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may answer with these, and with what every route may."""
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {status: {"description": HTTPStatus(status).phrase, **problem} for status in (401, *statuses)}
