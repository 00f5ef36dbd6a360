"""Who gets how much: a total budget is dealt out where the next token helps most.

Loss curves of layers and KV heads come from a sensitivity profile (`tuner.search.profile`). The lower convex hull of a
curve makes its slopes fall, so that dealing out by slope is optimal for the sum of the curves (LU-KV, arXiv
2602.08585).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

LEAST_SHARE = 0.001
"""Of the cache that a layer or head is ever given: a share has to keep something."""


def as_share(share: float) -> float:
    """A share as policies carry it: four decimals, `LEAST_SHARE` to 1. Exactly 1 keeps everything."""
    return min(1.0, max(round(float(share), 4), LEAST_SHARE))


def lower_hull(budgets: Sequence[float], losses: Sequence[float]) -> list[tuple[float, float]]:
    """The lower convex hull of the points (budget, loss), from the smallest budget to the first of least loss."""
    best = int(np.argmin(losses))
    hull: list[tuple[float, float]] = []
    for point in zip(budgets[: best + 1], losses[: best + 1], strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def allocate(budgets: Sequence[float], losses: np.ndarray, total: float) -> np.ndarray:
    """Shares `[unit]` of mean `total` that make the sum of the units' hulls least.

    Args:
        budgets: ascending shares at which the losses were measured; the last is 1.
        losses: `[unit, budget]` nats; those of the full cache are 0.
        total: mean share, 0 to 1. What is left when no unit gains any more is dealt out in equal parts; below the
            smallest measured budget all units get the same.
    """
    n_units = len(losses)
    shares = np.full(n_units, min(total, budgets[0]))
    left = total * n_units - float(shares.sum())
    segments = [
        (_slope(start, stop), unit, stop[0] - start[0])
        for unit, curve in enumerate(losses)
        for start, stop in pairwise(lower_hull(budgets, curve.tolist()))
    ]
    for _, unit, width in sorted(segments):
        given = min(width, left)
        shares[unit] += given
        left -= given
    return shares if left <= 0 else np.array(fill(total, (shares + left / n_units).tolist()))


def with_floor(wanted: np.ndarray, floor: float, total: float) -> np.ndarray:
    """Shares `[unit]` of mean `total` like those `wanted`, of which everybody gets the part `floor` of `total`."""
    shares = (1 - floor) * wanted + floor * total
    shares = np.maximum(shares, LEAST_SHARE * total)  # of which logarithms are taken
    return np.array(fill(total, shares.tolist()))


def fill(mean: float, weights: Sequence[float]) -> list[float]:
    """Shares in proportion to `weights`, mean `mean`, none over 1: what is over goes to the others."""
    n = len(weights)
    shares = [0.0] * n
    free = set(range(n))
    left = mean * n
    while free:
        total = sum(weights[i] for i in free)
        full = {i for i in free if left * weights[i] / total >= 1}
        if not full:
            for i in free:
                shares[i] = left * weights[i] / total
            break
        for i in full:
            shares[i] = 1.0
        free -= full
        left -= len(full)
    return shares


def _slope(start: tuple[float, float], stop: tuple[float, float]) -> float:
    return (stop[1] - start[1]) / (stop[0] - start[0])
