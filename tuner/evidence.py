"""Is it true? Paired intervals that do not promise more than the samples can show."""

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


def paired_interval(
    differences: np.ndarray, seed: int, confidence: float = CONFIDENCE, resolution: float = 0.0
) -> Interval:
    """Bootstrap interval (percentile, SciPy) of the mean of per-sample differences ``[sample]``.

    Args:
        resolution: the smallest loss that one sample can show (one wrong token, one wrong answer). A bootstrap cannot
            resample a loss that it has not seen, so a rare one would pass as none: for the lower end, one more sample
            is added that loses this much, or as much as the worst sample seen. With no loss at all in n samples this is
            about the rule of three: up to 3 or 4 unseen losses in n.
    """
    mean = float(np.mean(differences))
    worst = min(-resolution, float(np.min(differences))) if resolution else 0.0
    low, _ = _bootstrap(np.append(differences, worst) if worst else differences, seed, confidence)
    _, high = _bootstrap(differences, seed, confidence)
    return Interval(mean, min(low, mean), high)


def _bootstrap(values: np.ndarray, seed: int, confidence: float) -> tuple[float, float]:
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
