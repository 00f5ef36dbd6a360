"""What a client may ask, checked field by field. A field that would be ignored is refused instead."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import parse_json
from a2sf_core.serve.refusal import Refusal

_MOST_STOPS = 4
_LONGEST_STOP = 200  # characters
_STRICT = ConfigDict(extra="forbid", strict=True)
Body = TypeVar("Body", bound="Common")
Stop = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = _STRICT
    include_usage: bool = False


class Common(BaseModel):
    """Fields of both endpoints."""

    model_config = _STRICT
    model: str
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # What changes nothing of the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # What may be said as long as it asks for nothing.
    n: Literal[1] | None = 1
    frequency_penalty: float | None = 0
    presence_penalty: float | None = 0
    logit_bias: dict[str, Any] | None = None

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server offers none; leave it out")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """Sequences that end the text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def most(self) -> int | None:
        """Tokens to write at most, if the client says so."""
        return self.max_tokens


class TextPart(BaseModel):
    """A part of a message; texts are all that can be read."""

    model_config = _STRICT
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """As chat templates want it; a developer is what used to be called system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(Common):
    """Of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    logprobs: Literal[False] | None = None

    @property
    def most(self) -> int | None:
        """Tokens to write at most, if the client says so."""
        return self.max_completion_tokens or self.max_tokens


class TextBody(Common):
    """Of /v1/completions."""

    prompt: str | Annotated[list[int], Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None


def read_body(raw: bytes, kind: type[Body]) -> Body:
    """Checked JSON.

    Raises:
        Refusal: 400, naming the field and never quoting what it holds.
    """
    try:
        data = parse_json(raw.decode("utf-8"), "the body", "send JSON.")
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8 text; send JSON.") from None
    except A2SFError as error:
        raise Refusal(400, str(error)) from None
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"][:3]) or "the body"
        said = "is not supported; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refusal(400, f"{field}: {said}.", param=field) from None
