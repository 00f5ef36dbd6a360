"""How a run says how far it is, to whoever called it: a terminal, a notebook, a service, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]
"""Called with (done, total) as a step goes on."""


class Watch(Protocol):
    """What a caller hands in to follow a run. Its methods are called from the thread that runs."""

    def step(self, name: str) -> Progress:
        """A step begins, such as "Reading search prompts"; what is returned is called as it goes on."""
        ...

    def say(self, text: str) -> None:
        """One sentence that belongs to no step."""
        ...


class Silent:
    """A `Watch` that lets everything pass."""

    def step(self, name: str) -> Progress:  # noqa: ARG002
        """Nothing is shown of the step."""
        return lambda _done, _total: None

    def say(self, text: str) -> None:
        """Nothing is said."""
