"""From tokens to text as it is written: what may be given away already, and where a stop sequence ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what bytes decode to that are not a character yet


class Writer:
    """The text of one answer, piece by piece; all pieces together are what the tokens decode to.

    Attributes:
        tokens: those that were added.
        is_stopped: a stop sequence has come; the text ends before it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        """An empty text, which the first of the `stop` sequences ends."""
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._settled = ""  # text of the tokens before `_next`, none of which can change any more
        self._given = 0  # characters of it, and of what follows
        self._before, self._next = 0, 0  # tokens are decoded behind some that came before, as spaces hang on those
        self.tokens: list[int] = []
        self.is_stopped = False

    def add(self, token: int) -> str:
        """One token more. Returns what is new of the text and can no longer change or turn into a stop sequence."""
        self.tokens.append(token)
        text = self._text()
        ends = [at for each in self._stop if (at := text.find(each, self._given)) >= 0]
        if ends:
            self.is_stopped = True
            return self._give(text, min(ends))
        settled = _settled(text)
        return self._give(text, len(settled) - self._may_become_stop(settled))

    def end(self) -> str:
        """What was held back, once no token follows."""
        text = self._text()
        return "" if self.is_stopped else self._give(text, len(text))

    def _text(self) -> str:
        """All of it. Decoded are only the tokens since those whose text can no longer change."""
        new = self._decode(None)[len(self._decode(self._next)) :]
        text = self._settled + new
        if new and _settled(new) == new:
            self._settled, self._before, self._next = text, self._next, len(self.tokens)
        return text

    def _decode(self, stop: int | None) -> str:
        some = self.tokens[self._before : stop]
        return str(self._tokenizer.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _give(self, text: str, end: int) -> str:
        new = text[self._given : end]
        self._given = max(self._given, end)
        return new

    def _may_become_stop(self, text: str) -> int:
        """Characters at the end that begin a stop sequence."""
        lengths = (n for each in self._stop for n in range(1, len(each)) if text.endswith(each[:n]))
        return max(lengths, default=0)


def _settled(text: str) -> str:
    """Without what a next token may change: half a character, and spaces, which some decoders drop later."""
    return text.rstrip(_INCOMPLETE).rstrip()
