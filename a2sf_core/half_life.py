"""A forgetting factor per token and a half-life in tokens say the same: alpha = 2^(-1 / half_life)."""

from __future__ import annotations

from math import inf, log2

from a2sf_core.errors import A2SFError
from a2sf_core.fields import is_number


def half_life_of(alpha: float) -> float:
    """Half-life in tokens of the forgetting factor `alpha`: 0 for alpha 0, infinity for alpha 1.

    Raises:
        A2SFError: if alpha is not in [0, 1].
    """
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise A2SFError(f"alpha must be a number from 0 to 1, not {alpha!r}.")
    if alpha == 0:
        return 0.0
    return inf if alpha == 1 else -1 / log2(alpha)


def alpha_of(half_life: float) -> float:
    """Forgetting factor per token of a half-life in tokens: 0 for 0, 1 for infinity."""
    if half_life == 0:
        return 0.0
    return 1.0 if half_life == inf else 2.0 ** (-1 / half_life)
