"""Errors as OpenAI's clients know them."""

from __future__ import annotations

from openai.types.shared import ErrorObject
from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is not answered, with the reason in one sentence."""

    def __init__(self, status: int, said: str, param: str | None = None, code: str | None = None) -> None:
        """An HTTP `status` and what the client is told."""
        super().__init__(said)
        self.status = status
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.error = ErrorObject(message=said, type=kind, param=param, code=code)

    def response(self) -> JSONResponse:
        """The answer in its place."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.status in (429, 503):
            headers["Retry-After"] = "1"
        return JSONResponse({"error": self.error.model_dump()}, self.status, headers)
