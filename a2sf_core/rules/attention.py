"""Rules that rank by the attention that tokens received: forgotten by and by, or of the last queries alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from sys import float_info
from typing import TYPE_CHECKING, Any, ClassVar, Self

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int, is_number
from a2sf_core.half_life import alpha_of, half_life_of
from a2sf_core.rules.base import Held, ScoreRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Decay(ScoreRule):
    """Accumulated attention with a forgetting factor (A2SF, arXiv 2407.20485).

    Attributes:
        half_life: tokens after which a query's attention counts half. 0 counts the last query only (alpha 0,
            with 0^0 = 1), infinity counts all queries alike (alpha 1).

    Raises:
        A2SFError: if the half-life is negative or not a number.
    """

    name: ClassVar[str] = "decay"
    half_life: float = inf

    def __post_init__(self) -> None:
        known = is_number(self.half_life) and (0 <= self.half_life <= float_info.max or self.half_life == inf)
        if not known:  # NaN is neither, nor is an integer that no float can hold
            raise A2SFError(f"half_life must be a number of tokens, 0 to infinity, not {self.half_life!r}.")
        object.__setattr__(self, "half_life", float(self.half_life))

    @property
    def alpha(self) -> float:
        """Forgetting factor per token, 2^(-1 / half_life)."""
        return alpha_of(self.half_life)

    @property
    def accumulates(self) -> tuple[float, ...]:
        """The one half-life."""
        return (self.half_life,)

    def rank(self, held: Held) -> Tensor:
        """The forgotten sum itself."""
        return held.accumulated(self.half_life)

    def to_dict(self) -> dict[str, Any]:
        """With alpha beside the half-life, for the reader."""
        return super().to_dict() | {"alpha": self.alpha}

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> Self:
        """Either of half_life and alpha suffices; both must agree within 1e-6."""
        given = dict(check_keys(given, ("half_life", "alpha"), (), where))
        alpha = given.get("alpha")
        if "half_life" in given:
            half_life = inf if given["half_life"] == "inf" else given["half_life"]
        else:
            half_life = inf if alpha is None else half_life_of(alpha)
        rule = cls(half_life)
        if alpha is not None and not (is_number(alpha) and abs(alpha - rule.alpha) <= 1e-6):
            raise A2SFError(
                f"alpha {alpha!r} and half_life {rule.half_life:g} disagree (that half-life is "
                f"alpha {rule.alpha:.6f}); keep only one of the two."
            )
        return rule


@dataclass(frozen=True)
class Window(ScoreRule):
    """The plain attention sum of the last queries (SnapKV, arXiv 2404.14469).

    Attributes:
        queries: how many of the last queries vote.
        pooling: tokens over which votes are averaged, so that a token's neighbours stay with it; 1 for none, else odd.

    Raises:
        A2SFError: naming the field that is out of its range.
    """

    name: ClassVar[str] = "window"
    queries: int = 16
    pooling: int = 1

    def __post_init__(self) -> None:
        if not is_int(self.queries) or self.queries < 1:
            raise A2SFError(f"queries must be an integer of at least 1, not {self.queries!r}.")
        if not is_int(self.pooling) or self.pooling < 1 or self.pooling % 2 == 0:
            raise A2SFError(f"pooling must be an odd integer of at least 1 token, not {self.pooling!r}.")

    @property
    def holds(self) -> int:
        """The queries that vote."""
        return self.queries

    def rank(self, held: Held) -> Tensor:
        """The votes, pooled."""
        votes = held.attention_of_last(self.queries)
        return votes if self.pooling == 1 else _pooled(votes, held.positions, self.pooling)


def _pooled(votes: Tensor, positions: Tensor, width: int) -> Tensor:
    """Means over `width` neighbours in the order of positions, which need not be that of the slots."""
    from torch.nn.functional import avg_pool1d

    order = positions.argsort(dim=-1)  # [batch, kv_head, slot], empty slots first, as padding is
    sorted_votes = votes.masked_fill(positions < 0, 0).gather(-1, order)
    return votes.scatter(-1, order, avg_pool1d(sorted_votes, width, stride=1, padding=width // 2))
