"""How attention is forgotten: weights by age, the first term of the recurrence, and which queries still matter."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log2

import torch
from torch import Tensor

from a2sf_core.half_life import alpha_of

# Attention that may be left out of one key, in sum over all skipped queries of a KV head: queries so old
# that they cannot matter for any half-life asked are never multiplied.
_SKIPPED_SCORE = 1e-5


def query_weights(half_lives: Sequence[float], n: int, device: torch.device) -> Tensor:
    """alpha^(n - 1 - q) for each half-life and query, with 0^0 = 1: float32 `[half_life, query]`."""
    age = torch.arange(n - 1, -1, -1, dtype=torch.float64, device=device)  # [query]
    rows = [torch.pow(torch.tensor(alpha_of(h), dtype=torch.float64, device=device), age) for h in half_lives]
    return torch.stack(rows).float() if rows else age.new_zeros(0, n).float()


def decay(scores: Tensor, half_lives: Sequence[float], steps: int) -> Tensor:
    """alpha^steps * scores, the first term of the recurrence; scores are `[half_life, ...]`."""
    factors = torch.tensor([alpha_of(h) ** steps for h in half_lives], device=scores.device)
    return scores * factors.view(-1, *[1] * (scores.dim() - 1))


def queries_that_matter(half_life: float, group: int) -> float:
    """How many of the last queries suffice: those before them add at most 1e-5 to any score."""
    alpha = alpha_of(half_life)
    if alpha == 1:
        return inf
    if alpha == 0:
        return 1
    return max(1.0, half_life * log2(group / ((1 - alpha) * _SKIPPED_SCORE)))
