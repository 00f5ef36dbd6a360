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
    """Holder `i` of `count` holds the blocks `i`, `i + count`, and so on, which it reads when it is first asked."""

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
            told: called for every prompt that is read meanwhile, every text that the full cache writes, and whenever
                `what` calls its holder's `told`.

        Raises:
            A2SFError: what one of them raised.
        """
        ...

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """All of them know one rule more for each layer; see `Holder.learn`."""
        ...


class Here:
    """All blocks in this process."""

    count = 1

    def __init__(self, model: Any, portion: Portion) -> None:
        self._model, self._portion = model, portion
        self._holder: Holder | None = None

    def run(
        self, what: Callable[..., Found], given: Mapping[int, tuple[Any, ...]], told: Told = nobody
    ) -> dict[int, Found]:
        """See `Holders`."""
        self._holder = self._holder or Holder(self._model, self._portion, told)
        self._holder.told = told
        try:
            return {index: what(self._holder, *each) for index, each in given.items()}
        finally:
            self._holder.told = nobody

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """See `Holders`."""
        self.run(Holder.learn, {0: (own,)})
