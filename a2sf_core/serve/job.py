"""One request as the engine sees it, and what it is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from a2sf_core.serve.sampling import Sampling
from a2sf_core.serve.served import Served


@dataclass(frozen=True)
class Piece:
    """More of the text."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The answer is whole.

    Attributes:
        reason: "stop" (an end token or a stop sequence) or "length".
        prompt, written: tokens.
        kept, full: tokens that the cache holds at the end, the mean over layers and KV heads, and without pruning.
    """

    reason: str
    prompt: int
    written: int
    kept: int
    full: int


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it: "timeout", "shutdown" or "error"."""

    why: str


Event = Piece | Ended | Failed


@dataclass(eq=False)
class Job:
    """A prompt to be answered. `tell` is called from the engine's thread: last with an `Ended` or a `Failed`.

    Attributes:
        ids: the prompt's tokens, one at least.
        most: tokens to write at most.
        stop: texts that end the answer.
        seconds: from now on; what is not answered then fails.
        served: what answers; None for what the engine picks.
        is_cancelled: set by `Engine.cancel`: nobody reads the answer any more.
    """

    ids: tuple[int, ...]
    most: int
    tell: Callable[[Event], None]
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    seconds: float = inf
    served: Served | None = None
    is_cancelled: bool = False
    came: float = field(default_factory=monotonic)

    @property
    def is_late(self) -> bool:
        """Whether its time is up."""
        return monotonic() - self.came > self.seconds
