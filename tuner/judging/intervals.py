"""Is it true? Paired intervals that do not promise more than the samples can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ERRORS_EACH_SIDE = 1.96
"""Standard errors from a normal mean to either end of its interval at `CONFIDENCE`."""
RESAMPLES = 10_000
FAMILY_RESAMPLES = 20_000
"""More, because the level of one among many lies far out in the tail."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float

    def to_list(self) -> list[float]:
        """Mean, low, high."""
        return [self.mean, self.low, self.high]

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired_interval(
    differences: np.ndarray, seed: int, confidence: float = CONFIDENCE, resolution: float = 0.0
) -> Interval:
    """Bootstrap interval (percentile, SciPy) of the mean of per-sample differences `[sample]`.

    Args:
        resolution: the smallest loss that one sample can show (one wrong token, one wrong answer). A bootstrap cannot
            resample a loss that it has not seen, so a rare one would pass as none: for the lower end, one more sample
            is added that loses this much, or as much as the worst sample seen. With no loss at all in n samples this is
            about the rule of three: up to 3 or 4 unseen losses in n.
    """
    mean = float(np.mean(differences))
    low, _ = _bootstrap(with_unseen_loss(differences, resolution), seed, confidence)
    _, high = _bootstrap(differences, seed, confidence)
    return Interval(mean, min(low, mean), high)


def with_unseen_loss(differences: np.ndarray, resolution: float) -> np.ndarray:
    """`[sample + 1]`: one more sample that loses `resolution`, or as much as the worst seen; as it is for 0."""
    return np.append(differences, min(-resolution, float(np.min(differences)))) if resolution else differences


def level_for_many(differences: Sequence[np.ndarray], seed: int, error: float) -> float:
    """How far out in the tail each of many lower bounds has to lie so that one of them is wrong with chance `error`.

    Choosing among many candidates favours the lucky ones. Candidates that lose on the same samples are lucky together,
    so the level lies between `error` (they are all alike) and `error` over their number (Bonferroni); where, is
    read off a bootstrap of all of them at once, as in Westfall and Young's step-down tests (1993).

    Args:
        differences: one array `[sample]` per candidate, over the same samples.
    """
    table = np.stack([row for row in differences if np.ptp(row) > 0] or [np.array([0.0, 1.0])])  # [candidate, sample]
    n = table.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), FAMILY_RESAMPLES) / n  # [resample, sample]
    means = draws @ table.T  # [resample, candidate]
    ranks = stats.rankdata(means, axis=0) / FAMILY_RESAMPLES
    return float(np.quantile(ranks.min(1), error))


def half_width(differences: np.ndarray, n: int) -> float:
    """About how far the 95 % interval of `n` samples like these will reach to each side."""
    return ERRORS_EACH_SIDE * float(np.std(differences, ddof=1)) / math.sqrt(n)


def samples_for(differences: np.ndarray, wanted: float) -> int:
    """How many samples like these an interval of plus or minus `wanted` takes."""
    return math.ceil((half_width(differences, 1) / wanted) ** 2)


def _bootstrap(values: np.ndarray, seed: int, confidence: float) -> tuple[float, float]:
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
