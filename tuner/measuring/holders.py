"""Who holds the prompts of an engine: this process, or several of them, each with some of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from a2sf_core.rules.base import ScoreRule
from tuner.measuring.blocks import Told, nobody
from tuner.measuring.holder import Holder
from tuner.measuring.portion import Portion

Found = TypeVar("Found")


class Holders(Protocol):
    """Holder `i` of `count` holds the blocks `i`, `i + count`, and so on."""

    @property
    def count(self) -> int:
        """How many there are: so many blocks are measured side by side."""
        ...

    def run(
        self, what: Callable[..., Found], given: Mapping[int, tuple[Any, ...]], told: Told = nobody
    ) -> dict[int, Found]:
        """`what(holder, *given[i])` at each holder `i` in `given`, side by side.

        Args:
            what: a function of a module, or a method of `Holder`, as it may have to be sent; what it returns is sent
                back.
            told: called whenever one of them calls its holder's `told`.

        Raises:
            A2SFError: what one of them raised.
        """
        ...

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """All of them know one rule more for each layer; see `Holder.learn`."""
        ...


class Here:
    """All blocks in this process.

    Attributes:
        holder: what holds them.
    """

    count = 1

    def __init__(self, model: Any, portion: Portion, told: Told = nobody) -> None:
        self.holder = Holder(model, portion, told)

    def run(
        self, what: Callable[..., Found], given: Mapping[int, tuple[Any, ...]], told: Told = nobody
    ) -> dict[int, Found]:
        """See `Holders`."""
        self.holder.told = told
        try:
            return {index: what(self.holder, *each) for index, each in given.items()}
        finally:
            self.holder.told = nobody

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """See `Holders`."""
        self.holder.learn(own)


Hold = Callable[[Any, Portion, Told], Holders]
"""Called with a model, what to hold, and what is told of every prompt and text."""
