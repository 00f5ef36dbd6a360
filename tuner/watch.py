"""How a run says how far it is, to whoever called it: a terminal, a notebook, a service, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Progress = Callable[[int, int], None]
"""Called with (done, total) as a step goes on."""
Item = TypeVar("Item")


def silent(done: int, total: int) -> None:
    """A `Progress` that nobody looks at."""


class Count:
    """Tells `progress` how many of `total` pieces are done, over several loops."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, each of them done once the next one is asked for."""
        for item in items:
            yield item
            self.one()

    def one(self) -> None:
        """One more is done."""
        self._done += 1
        self._progress(min(self._done, self._total), self._total)

    def skip(self, pieces: int) -> None:
        """So many need not be done."""
        self._done += pieces

    def close(self) -> None:
        """All of it is done, also what could be left out."""
        self._progress(self._total, self._total)


class Watch(Protocol):
    """What a caller hands in to follow a run. Its methods are called from the thread that runs."""

    def step(self, name: str) -> Progress:
        """A step begins, such as "Reading search prompts"; what is returned is called as it goes on.

        One that cannot be counted, such as "Loading smollm2", calls nothing; it is over where the next one begins.
        """
        ...

    def say(self, text: str) -> None:
        """One sentence that belongs to no step."""
        ...


class Silent:
    """A `Watch` that lets everything pass."""

    def step(self, name: str) -> Progress:  # noqa: ARG002
        """Nothing is shown of the step."""
        return silent

    def say(self, text: str) -> None:
        """Nothing is said."""
