"""What every contender is held to: samples, metric and goal; and the smallest budget that meets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.grading import Grader
from tuner.judging.intervals import CONFIDENCE, Interval, level_for_many, paired_interval, with_unseen_loss
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses, Seen

BUDGET_STEPS = tuple(round(0.02 * 1.08**step, 3) for step in range(51))
"""Budgets of a bisection: 2 to 94 %, 8 % of each other apart."""
GENERATE_AT_ONCE = 16
N_ERRORS = 2.5
"""Standard errors that a mean must miss the goal by to be given up early."""


@dataclass(frozen=True)
class Candidate:
    """A policy with its paired difference to the full cache, in points of the task's metric (negative is worse).

    `paired` are the differences `[sample]` behind the interval; `shape` and `budget` are what the policy came from,
    where it came from a shape.
    """

    label: str
    policy: Policy
    cache_fraction: float
    difference: Interval
    shape: Shape | None = field(default=None, compare=False, repr=False)
    budget: float = 1.0
    paired: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)

    @property
    def method(self) -> str:
        """The known method that it is, such as "h2o"; empty for what was tuned."""
        return self.shape.method if self.shape else ""

    def meets(self, max_degradation: float) -> bool:
        """True if even the lower end of the interval is within the goal."""
        return self.difference.low >= -max_degradation


@dataclass(frozen=True)
class Contest:
    """What every contender is held to: the samples of one split, the task's metric, the goal in points."""

    engine: Engine
    grader: Grader
    max_degradation: float
    seed: int
    confidence: float = CONFIDENCE

    def measure(self, label: str, policy: Policy, shape: Shape | None = None, budget: float = 1.0) -> Candidate:
        """Measure `policy`, which may be that of `shape` at `budget`, on all samples against the full cache."""
        losses = self.engine.evaluate(policy)
        paired = 100 * (self.grader(self.engine, policy) - self._full_score())
        interval = paired_interval(paired, self.seed, self.confidence, self._resolution(losses))
        return Candidate(label, policy, float(losses.cache_fraction.mean()), interval, shape, budget, paired)

    def measure_again(self, candidate: Candidate) -> Candidate:
        """The same candidate on the samples of this contest, at its confidence."""
        return self.measure(candidate.label, candidate.policy, candidate.shape, candidate.budget)

    def measure_if_hopeful(self, label: str, shape: Shape, budget: float) -> Candidate | None:
        """`measure` for `shape` at `budget`, or None as soon as it is clear that the goal is missed.

        Wrongly giving up costs a little memory, never quality. Where texts must be written, those that hurt most (by
        the likelihood, which is cheap) come first, until even full marks on all the rest would not do.
        """
        full, policy = self._full_score(), shape.at(budget)
        if not self.grader.metric.needs_generation:
            seen = self.engine.race([policy], lambda _, seen: self._is_hopeless(seen))[0]
            return self.measure(label, policy, shape, budget) if seen.n == len(full) else None
        hurt = self.engine.evaluate(policy).nll - self.engine.evaluate(Policy.full(self.engine.n_layers)).nll
        order = np.argsort(-hurt)
        for stop in range(GENERATE_AT_ONCE, len(order), GENERATE_AT_ONCE):
            rows = order[:stop]
            if self._out_of_reach(self.grader.on(self.engine, policy, rows), rows):
                return None
        return self.measure(label, policy, shape, budget)

    def _is_hopeless(self, seen: Seen) -> bool:
        """True if even the upper end of an interval of the samples seen, a random part, misses the goal."""
        paired = 100 * (seen.losses.accuracy - self._full_score()[seen.rows])
        return bool(paired.mean() + N_ERRORS * paired.std(ddof=1) / np.sqrt(seen.n) < -self.max_degradation)

    def _out_of_reach(self, scores: np.ndarray, rows: np.ndarray) -> bool:
        """True if the mean difference misses the goal even with full marks on all samples but `rows`."""
        full = self._full_score()
        unseen = np.delete(full, rows)
        best = (scores - full[rows]).sum() + (1 - unseen).sum()
        return bool(100 * best / len(full) < -self.max_degradation)

    def with_unseen(self, candidate: Candidate) -> np.ndarray:
        """The candidate's differences and one loss that was not seen: see `with_unseen_loss`."""
        return with_unseen_loss(candidate.paired, self.grader.resolution(self.engine))

    def _full_score(self) -> np.ndarray:
        return self.grader(self.engine, Policy.full(self.engine.n_layers))

    def _resolution(self, losses: Losses) -> float:
        # The full cache against itself is certain.
        return self.grader.resolution(self.engine) if losses.cache_fraction.min() < 1 else 0.0

    def bisect(self, shape: Shape) -> list[Candidate]:
        """`shape` at several budgets: a bisection for the smallest one that meets the goal, all steps of it.

        A shape that was found at one budget is not always better with more, so that a bisection over all budgets could
        lose its way: it looks from half to twice that budget only.
        """
        tried = []
        found_at = shape.found_at
        steps = [b for b in BUDGET_STEPS if found_at is None or found_at / 2 <= b <= found_at * 2]
        low, high = -1, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            found = self.measure_if_hopeful(f"{shape.name} {steps[middle]:g}", shape, steps[middle])
            if found:
                tried.append(found)
            low, high = (low, middle) if found and found.meets(self.max_degradation) else (middle, high)
        return tried

    def winner(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The smallest cache among those that meet the goal; None if none does."""
        good = [candidate for candidate in candidates if candidate.meets(self.max_degradation)]
        return min(good, key=lambda candidate: candidate.cache_fraction, default=None)

    def held_to(self, candidates: Sequence[Candidate]) -> Contest:
        """The same contest at the confidence that is right for the best of so many candidates."""
        paired = [self.with_unseen(candidate) for candidate in candidates]
        error = (1 - CONFIDENCE) / 2
        level = min(error, level_for_many(paired, self.seed, error)) if paired else error
        return replace(self, confidence=1 - 2 * level)
