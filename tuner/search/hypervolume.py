"""One number for a whole front: the area that its trials dominate, in loss against memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from tuner.search.objectives import Point

WORST_LOSS = 0.2
"""Nats per token, a perplexity 22 % higher: more than anyone would accept. Worse policies are worth nothing."""


def hypervolume(points: Iterable[Point], worst_loss: float = WORST_LOSS) -> float:
    """Share of the rectangle (0 to 1 of the cache, 0 to `worst_loss` nats) that some point dominates, 0 to 1.

    A loss below 0 counts as 0: pruning that helps the likelihood is not a goal.
    """
    area, reached = 0.0, worst_loss
    for memory, loss in sorted(points):
        if loss < reached and memory < 1:
            better = max(loss, 0.0)
            area += (1 - memory) * (reached - better)
            reached = better
    return area / worst_loss


def stood_still(points: Sequence[Point], patience: int, least_gain: float) -> bool:
    """True if the last `patience` points together added less than `least_gain` to the hypervolume."""
    if len(points) <= patience:
        return False
    return hypervolume(points) - hypervolume(points[:-patience]) < least_gain


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other beats in both; of equal ones the first."""
    kept, least = [], inf
    for place in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if points[place][1] < least:
            kept.append(place)
            least = points[place][1]
    return kept
