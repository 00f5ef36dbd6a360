"""Rules that look at nothing but where a token stands: the plainest things to be better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from a2sf_core.errors import A2SFError
from a2sf_core.fields import is_int
from a2sf_core.rules.base import Held, ScoreRule

if TYPE_CHECKING:
    from torch import Tensor

# Park and Miller's generator: products stay far below 2^63.
_MULTIPLIER, _MODULUS = 48_271, 2**31 - 1


@dataclass(frozen=True)
class Position(ScoreRule):
    """All tokens tie, so the later ones stay: with a sink this is StreamingLLM (arXiv 2309.17453)."""

    name: ClassVar[str] = "position"

    def rank(self, held: Held) -> Tensor:
        """Zeros."""
        return held.positions.new_zeros(held.positions.shape).float()


@dataclass(frozen=True)
class Random(ScoreRule):
    """A worth drawn once for each place in the text, the same in all layers and heads.

    Attributes:
        seed: of the draw.

    Raises:
        A2SFError: if the seed is not an integer from 0 to 2^31 - 2.
    """

    name: ClassVar[str] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_int(self.seed) or not 0 <= self.seed < _MODULUS:
            raise A2SFError(f"seed must be an integer from 0 to {_MODULUS - 1}, not {self.seed!r}.")

    def rank(self, held: Held) -> Tensor:
        """From 0 to 1, even."""
        # Counted from a row's first token, so that a row draws what it would draw alone.
        place = held.positions.long() - held.left_padding[:, None, None]  # [batch, kv_head, slot]
        drawn = (place.clamp(min=0) + 1 + self.seed * _MULTIPLIER) % _MODULUS
        for _ in range(3):  # neighbours are still alike after one round
            drawn = ((drawn ^ (drawn >> 13)) * _MULTIPLIER) % _MODULUS
        return (drawn.double() / _MODULUS).float()
