"""Is it true? Paired intervals that do not promise more than the samples can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tuner.inputs.power import CONFIDENCE, fewest_contexts

ERRORS_EACH_SIDE = 1.96
"""Standard errors from a normal mean to either end of its interval at `CONFIDENCE`."""
RESAMPLES = 10_000


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


@dataclass(frozen=True)
class Paired:
    """Differences of two policies on the same samples, in points, summed up per context.

    Questions on one context are right or wrong together, so contexts are what is drawn again in a bootstrap.

    Attributes:
        sums: float64 `[context]`, of the differences of its samples.
        counts: float64 `[context]`, how many samples it has.
    """

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, differences: np.ndarray, contexts: np.ndarray | None = None) -> Paired:
        """From differences `[sample]` and a label per sample of its context; None: each sample has its own."""
        if contexts is None:
            return cls(np.asarray(differences, dtype=float), np.ones(len(differences)))
        _, place = np.unique(contexts, return_inverse=True)
        return cls(np.bincount(place, differences), np.bincount(place).astype(float))

    @property
    def n_contexts(self) -> int:
        """How many contexts there are: what an interval rests on."""
        return len(self.sums)

    @property
    def mean(self) -> float:
        """Points per sample."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def spread(self) -> float:
        """Standard deviation of the mean of one context, as a ratio estimator has it, in points."""
        residuals = (self.sums - self.mean * self.counts) / self.counts.mean()  # [context]
        return float(np.sqrt((residuals**2).mean()))

    def with_unseen(self, resolution: float) -> Paired:
        """One context more that loses `resolution` points per sample, or as much as the worst seen; as it is for 0.

        A bootstrap cannot draw a loss that it has not seen, so a rare one would pass as none. With no loss at all in n
        contexts this is about the rule of three: up to 3 or 4 unseen losses in n.
        """
        if not resolution:
            return self
        size = float(self.counts.mean())
        return Paired(np.append(self.sums, self.worst(resolution) * size), np.append(self.counts, size))

    def worst(self, resolution: float) -> float:
        """Points per sample of the context that loses most, one that was not seen among them."""
        return min(-resolution, float((self.sums / self.counts).min()))


def paired_interval(
    differences: np.ndarray, seed: int, resolution: float = 0.0, contexts: np.ndarray | None = None
) -> Interval:
    """Bootstrap interval (percentile, SciPy) of the mean of per-sample differences `[sample]`.

    Args:
        resolution: the smallest loss that one sample can show (one wrong token, one wrong answer): what
            `Paired.with_unseen` adds for the lower end. That end lies one such step further out than the percentile:
            losses are counts, and the percentile of a count is too kind. Of 78 whole answers without a loss it proved 4
            points in 4.2 % of reports where 2.5 % were promised (`python -m benchmarks.ladders`).
        contexts: a label per sample; those of one context are drawn together.
    """
    paired = Paired.of(differences, contexts)
    unseen = paired.with_unseen(resolution)
    low, high = _bootstrap(unseen, seed)
    if unseen is not paired:
        _, high = _bootstrap(paired, seed)
    low = max(low - resolution / unseen.n_contexts, paired.worst(resolution))
    return Interval(paired.mean, min(low, paired.mean), high)


def contexts_to_hold(seen: Paired, resolution: float, goal: float) -> int | None:
    """The fewest contexts like those `seen` whose interval lies within `goal` points, about; None if none in reach do.

    One unseen loss is allowed for, whatever their number.
    """
    unseen = seen.worst(resolution)

    def holds(n: int) -> bool:
        mean = (n * seen.mean + unseen) / (n + 1)
        variance = (n * (seen.spread**2 + (seen.mean - mean) ** 2) + (unseen - mean) ** 2) / (n + 1)
        return mean - ERRORS_EACH_SIDE * math.sqrt(variance / (n + 1)) - resolution / (n + 1) >= -goal

    return fewest_contexts(holds)


def half_width(paired: Paired, n: int) -> float:
    """About how far the 95 % interval of `n` contexts like these will reach to each side."""
    return ERRORS_EACH_SIDE * paired.spread / math.sqrt(n)


def samples_for(paired: Paired, wanted: float) -> int:
    """How many contexts like these an interval of plus or minus `wanted` takes."""
    return math.ceil((half_width(paired, 1) / wanted) ** 2)


def _bootstrap(paired: Paired, seed: int) -> tuple[float, float]:
    means = paired.sums / paired.counts
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    def mean_of_alike(sums: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / paired.counts.sum()

    alike = np.ptp(paired.counts) == 0  # then there is half as much to draw, with the same result
    result = stats.bootstrap(
        (paired.sums,) if alike else (paired.sums, paired.counts), mean_of_alike if alike else mean, paired=not alike,
        confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile", vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
