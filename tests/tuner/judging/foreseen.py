"""Where the lower end of an interval will lie, foreseen step by step: `Expectation.provable` is its inverse."""

from __future__ import annotations

import math

from tuner.judging.expectation import Expectation
from tuner.judging.intervals import ERRORS_EACH_SIDE


def low(expectation: Expectation, kl: float, n: int) -> float:
    """Points, on `n` contexts, under a policy of this KL; one unseen loss included."""
    # The unseen loss, and the step beyond a percentile.
    lost = (n * expectation.lost(kl) + 2 * expectation.resolution) / (n + 1)
    return -lost - ERRORS_EACH_SIDE * math.sqrt(expectation.variance * lost / (n + 1))
