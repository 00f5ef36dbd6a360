"""Answers in the types of the openai package."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from a2sf_core.serve.job import Ended


def usage(end: Ended) -> CompletionUsage:
    """Tokens, and beside what OpenAI counts `cache_tokens`: held at the end, and without pruning."""
    return CompletionUsage.model_validate(
        {
            "prompt_tokens": end.prompt,
            "completion_tokens": end.written,
            "total_tokens": end.prompt + end.written,
            "cache_tokens": {"kept": end.kept, "full": end.full},
        }
    )


@dataclass(frozen=True)
class ChatAnswer:
    """Of /v1/chat/completions, whole or in chunks."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, end: Ended) -> ChatCompletion:
        """All at once."""
        message = ChatCompletionMessage(role="assistant", content=text)
        choice = Choice(index=0, finish_reason=_reason(end), message=message)
        return ChatCompletion(object="chat.completion", choices=[choice], usage=usage(end), **vars(self))

    def chunk(self, text: str, end: Ended | None = None, is_first: bool = False) -> ChatCompletionChunk:
        """A piece of the text."""
        delta = ChoiceDelta(content=text or None, role="assistant" if is_first else None)
        choice = ChunkChoice(index=0, delta=delta, finish_reason=None if end is None else _reason(end))
        return ChatCompletionChunk(object="chat.completion.chunk", choices=[choice], **vars(self))

    def last(self, end: Ended) -> ChatCompletionChunk:
        """What it took."""
        return ChatCompletionChunk(object="chat.completion.chunk", choices=[], usage=usage(end), **vars(self))


@dataclass(frozen=True)
class TextAnswer:
    """Of /v1/completions, whole or in chunks."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, end: Ended) -> Completion:
        """All at once."""
        choice = CompletionChoice(index=0, finish_reason=_reason(end), text=text)
        return Completion(object="text_completion", choices=[choice], usage=usage(end), **vars(self))

    def chunk(self, text: str, end: Ended | None = None, is_first: bool = False) -> Completion:  # noqa: ARG002
        """A piece of the text."""
        # The type wants a reason in every chunk, and OpenAI's own server sends null until the last.
        reason = None if end is None else _reason(end)
        choice = CompletionChoice.model_construct(index=0, finish_reason=reason, text=text, logprobs=None)
        return Completion(object="text_completion", choices=[choice], **vars(self))

    def last(self, end: Ended) -> Completion:
        """What it took."""
        return Completion(object="text_completion", choices=[], usage=usage(end), **vars(self))


def _reason(end: Ended) -> Any:
    return end.reason
