"""Bodies of requests, read with limits and checked field by field, and how OpenAPI shows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import parse_json
from a2sf_core.serve.bounds import TooLarge, TooSlow, content_type, pieces
from tuner.inputs.yaml_file import parse_mapping
from tuner.schemas import Schema, validated
from tuner.service.problems import Problem
from tuner.service.spec import MEND

JSON, YAML, BYTES = "application/json", "application/yaml", "application/octet-stream"
"""None of them is one that a page in a browser may send to another site without asking first."""
_SECONDS = 30.0
Body = TypeVar("Body", bound=Schema)


async def read_body(request: Request, kind: type[Body], most: int, *, yaml: bool = False) -> Body:
    """A body of JSON, or of YAML where that is taken.

    Raises:
        A2SFError: with the field that is wrong.
        Problem: 400, 408, 413 or 415.
    """
    given, taken = content_type(request), (JSON, YAML) if yaml else (JSON,)
    if given not in taken:
        raise Problem(415, f"the body is {given or 'of no type'}; send {' or '.join(taken)} as Content-Type.")
    try:
        raw = b"".join([piece async for piece in bounded(request, most, _SECONDS, "the body")])
        text = raw.decode("utf-8")
        data = parse_json(text, "the body", "send one JSON object.") if given == JSON else _yaml(text)
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8 text.") from None
    except A2SFError as error:
        raise Problem(400, str(error)) from None
    return validated(kind, data, "the body", MEND)


def _yaml(text: str) -> dict[str, Any]:
    # Through JSON's checks too: no number that is none, no integer of a thousand digits.
    import json

    fields = parse_mapping(Path("the body"), text)
    try:
        again = json.dumps(fields)
    except (TypeError, ValueError, RecursionError):
        raise A2SFError("the body holds a date, a set or other things that JSON has not; write them as text.") from None
    found = parse_json(again, "the body", "see docs/service.md.")
    assert isinstance(found, dict)
    return found


async def bounded(request: Request, most: int, seconds: float, what: str) -> AsyncIterator[bytes]:
    """What is sent, piece by piece. Raises Problem 413, 408 or 400 if it is too much, too slow or breaks off."""
    try:
        async for piece in pieces(request, most, seconds):
            yield piece
    except TooLarge:
        raise Problem(413, f"the body has more than {most:,} bytes, which is the limit here; send less.") from None
    except TooSlow:
        raise Problem(408, f"{what} did not come within {seconds:g} s.") from None
    except ClientDisconnect:
        raise Problem(400, f"{what} broke off.") from None


def shown(kind: type[Schema], *, yaml: bool = False) -> dict[str, Any]:
    """`openapi_extra` of a route that reads such a body."""
    schema = {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    types = (JSON, YAML) if yaml else (JSON,)
    return {"requestBody": {"required": True, "content": dict.fromkeys(types, schema)}}
