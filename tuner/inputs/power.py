"""What a number of report samples can prove, before anything is measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tuner.inputs.encoding import Encoded
from tuner.inputs.metrics import Metric

CONFIDENCE = 0.95
"""Of every interval that a user sees."""
MOST_CONTEXTS = 1_000_000
"""No user has more: a goal that needs them cannot be proven."""
EVERYTHING = 100.0
"""Points: what a policy that gets nothing right loses."""


def resolution(metric: Metric, samples: Sequence[Encoded]) -> float:
    """Points that a sample loses at least if it loses anything: one wrong token of a mean answer, a fact, an answer."""
    if metric.of_facts:
        sizes = [len(sample.facts) for sample in samples]
    else:
        whole = metric.needs_generation or metric.of_choices
        sizes = [1] if whole else [len(sample.answer_ids) for sample in samples]
    return 100.0 / float(np.mean(sizes))


def provable_loss(n: int, resolution: float) -> float:
    """Points: the smallest goal that `n` contexts prove when none of them shows a loss.

    The lower end of the bootstrap interval of n differences of nothing and one unseen loss of `resolution` points, as
    `tuner.judging.intervals.paired_interval` has it: a quantile of a binomial count, and one more.
    """
    count = float(stats.binom.ppf((1 + CONFIDENCE) / 2, n + 1, 1 / (n + 1))) + 1
    return resolution * min(1.0, count / (n + 1))


def contexts_to_prove(goal: float, resolution: float) -> int | None:
    """The fewest contexts that can prove `goal` points; None if no number in reach does."""
    return fewest_contexts(lambda n: provable_loss(n, resolution) <= goal)


def fewest_contexts(suffice: Callable[[int], bool]) -> int | None:
    """The smallest number of contexts that `suffice`, as do all larger ones; None if no number in reach does."""
    found = bisect_left(range(1, MOST_CONTEXTS + 1), True, key=suffice) + 1
    return found if found <= MOST_CONTEXTS else None


@dataclass(frozen=True)
class Power:
    """What the report split can prove.

    Attributes:
        n_contexts: that it has; questions on one context count once.
        n_samples: that it has.
        goal: allowed loss in points.
        resolution: points that a sample loses at least if it loses anything.
        report_share: of further samples, how many would go to the report.
    """

    n_contexts: int
    n_samples: int
    goal: float
    resolution: float
    report_share: float = 1.0

    @property
    def provable(self) -> float:
        """The smallest goal that can be proven, in points, rounded up to a tenth."""
        return math.ceil(10 * provable_loss(self.n_contexts, self.resolution)) / 10

    @property
    def suffices(self) -> bool:
        """True if a policy that loses nothing can be proven to meet the goal."""
        return provable_loss(self.n_contexts, self.resolution) <= self.goal

    @property
    def missing(self) -> int | None:
        """Further contexts that it takes, about; None if no number would do."""
        needed = contexts_to_prove(self.goal, self.resolution)
        return None if needed is None else max(0, math.ceil((needed - self.n_contexts) / self.report_share))

    def __str__(self) -> str:
        """One or two sentences for the reader."""
        on = "" if self.n_contexts == self.n_samples else f" on {_counted(self.n_contexts, 'context')}"
        said = f"{self.n_samples} report samples{on} can prove a loss of at most {in_points(self.provable)}; "
        if self.suffices:
            return f"{said}you allow {self.goal:g}."
        if self.missing is None:
            return f"{said}no number of samples proves {self.goal:g}. --max-degradation {self.provable:g} would do."
        more = f"{self.missing} more {'contexts' if on else 'samples'}"
        if self.provable < EVERYTHING:
            more += f", or --max-degradation {self.provable:g},"
        return f"{said}you allow {self.goal:g}. {more} would let this run decide."


def in_points(value: float) -> str:
    """Such as "1 point" or "2 points"."""
    return _counted(value, "point")


def _counted(value: float, noun: str) -> str:
    return f"{value:g} {noun}{'' if value == 1 else 's'}"
