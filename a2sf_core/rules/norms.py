"""Rules that look at the size of keys or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from a2sf_core.errors import A2SFError
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import Held, ScoreRule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KeyNorm(ScoreRule):
    """Keys of small L2 norm stay: they tend to draw much attention (arXiv 2406.11430)."""

    name: ClassVar[str] = "key-norm"

    def rank(self, held: Held) -> Tensor:
        """One over one more than the norm."""
        worth = (1 + held.keys.float().norm(dim=-1)).reciprocal()  # falls with the norm, and is never negative
        # Rotary embeddings keep norms, so equal tokens tie but for rounding, most of which half precision takes away.
        return worth.half().float()


@dataclass(frozen=True)
class ValueWeighted(ScoreRule):
    """Another rule's worth times the L1 norm of the token's value: attention to a small value moves little
    (VATP, arXiv 2406.12335).

    Attributes:
        inner: the rule whose worth is weighted.

    Raises:
        A2SFError: if `inner` is not a rule, or is weighted by values itself.
    """

    name: ClassVar[str] = "value-weighted"
    inner: ScoreRule = field(default_factory=Decay)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, ScoreRule):
            raise A2SFError(f"inner must be a rule, not {self.inner!r}.")
        if isinstance(self.inner, ValueWeighted):
            raise A2SFError("inner is weighted by values already; give the rule that it weights.")

    @property
    def accumulates(self) -> tuple[float, ...]:
        """What the inner rule needs."""
        return self.inner.accumulates

    @property
    def holds(self) -> int:
        """What the inner rule needs."""
        return self.inner.holds

    def of_heads(self, heads: Sequence[int]) -> ValueWeighted:
        """The inner rule of these heads, weighted."""
        return ValueWeighted(self.inner.of_heads(heads))

    def rank(self, held: Held) -> Tensor:
        """The inner worth, weighted."""
        return self.inner.rank(held) * held.values.float().abs().sum(-1)
