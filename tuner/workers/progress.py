"""What a job's process has said so far, as its row shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.printing import one_line, printable
from tuner.workers.leases import Report

MOST_SAID = 50
_STEP = 10**9
"""Pieces of one step, at most; so that a later step is always further than an earlier one."""


class Heard:
    """Takes the messages {"step": name}, {"done": n, "total": n}, {"said": text}, {"result": ...}, {"error": text}."""

    def __init__(self) -> None:
        self.result: Mapping[str, Any] | None = None
        self.error = ""
        self.is_unsaid = False
        self._said: list[str] = []
        self._step, self._steps, self._done, self._total = "Loading", 0, 0, 0
        self._began = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """True once the job has found its result, or why there is none."""
        return self.result is not None or bool(self.error)

    def take(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Hear some messages."""
        for message in messages:
            self._take(message)
        self.is_unsaid = self.is_unsaid or bool(messages)

    def _take(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"step": str(name)}:
                self._step, self._steps, self._done, self._total = one_line(name), self._steps + 1, 0, 0
                self._began = time.monotonic()
            case {"done": int(done), "total": int(total)}:
                self._done, self._total = done, total
            case {"said": str(text)}:
                self._said = [*self._said, printable(text)][-MOST_SAID:]
            case {"result": dict(result)}:
                self.result = result
            case {"error": str(text)}:
                self.error = text

    def report(self, log: str) -> Report:
        """All of it, with the time that the running step still takes."""
        self.is_unsaid = False
        spent = time.monotonic() - self._began
        left = spent / self._done * (self._total - self._done) if 0 < self._done < self._total else None
        progress = {"step": self._step, "done": self._done, "total": self._total, "seconds_left": left}
        return Report(self._steps * _STEP + self._done, progress, self._said, printable(log))
