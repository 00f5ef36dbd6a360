"""Is it true? Paired intervals, the choice among finalists, and the sentence that says what was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 4000


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


def paired_interval(differences: np.ndarray, seed: int, confidence: float = CONFIDENCE) -> Interval:
    """Bootstrap interval (percentile, SciPy) of the mean of per-sample differences ``[sample]``.

    When all differences are equal no resample shows another value, and the interval is that value: it says nothing
    about rarer losses than one in ``len(differences)`` samples.
    """
    mean = float(np.mean(differences))
    if np.ptp(differences) == 0:
        return Interval(mean, mean, mean)
    result = stats.bootstrap(
        (differences,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))
