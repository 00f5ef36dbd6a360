"""What every contender is held to: samples, metric and goal; and the smallest budget that is good enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.grading import Grader
from tuner.judging.intervals import Interval, Paired, foreseen_low, paired_interval
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine

BUDGET_STEPS = tuple(round(0.02 * 1.08**step, 3) for step in range(51))
"""Budgets of a bisection: 2 to 94 %, 8 % of each other apart."""
WRITTEN_AT_ONCE = 64
N_ERRORS = 2.5
"""Standard errors that a mean must miss the goal by to be given up early."""


@dataclass(frozen=True)
class Proposal:
    """A policy with a name for the reader, and the shape and the budget that it comes from, where it has one."""

    label: str
    policy: Policy
    shape: Shape | None = field(default=None, compare=False, repr=False)
    budget: float = 1.0

    @classmethod
    def of(cls, shape: Shape, budget: float) -> Proposal:
        """`shape` at `budget`."""
        return cls(f"{shape.name} at {100 * budget:.3g}%", shape.at(budget), shape, budget)


@dataclass(frozen=True)
class Estimate:
    """What the samples of a choice say of a proposal: paired differences to the full cache, in points."""

    proposal: Proposal
    cache_fraction: float
    paired: Paired


@dataclass(frozen=True)
class Candidate:
    """A policy with its paired difference to the full cache, in points of the task's metric (negative is worse).

    `method` is the known method that it is, such as "h2o", and empty for what was tuned; `differences` `[sample]` are
    those behind the interval.
    """

    label: str
    policy: Policy
    cache_fraction: float
    difference: Interval
    method: str = ""
    differences: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)

    def meets(self, max_degradation: float) -> bool:
        """True if even the lower end of the interval is within the goal."""
        return self.difference.low >= -max_degradation


@dataclass(frozen=True)
class Contest:
    """What every contender is held to: the samples of some splits, the task's metric, the goal in points.

    `n_judges` is the number of contexts of the report split, for which a choice plans.
    """

    engines: tuple[Engine, ...]
    grader: Grader
    max_degradation: float
    seed: int
    n_judges: int = 0

    @property
    def resolution(self) -> float:
        """Points that a sample loses at least if it loses anything."""
        return float(np.mean([self.grader.resolution(engine) for engine in self.engines]))

    @property
    def contexts(self) -> np.ndarray:
        """A label per sample: equal for those on the same context."""
        return np.array([sample.context_key for engine in self.engines for sample in engine.samples])

    def judge(self, proposal: Proposal) -> Candidate:
        """Measure on all samples against the full cache, with an interval."""
        differences = np.concatenate([self._differences(engine, proposal.policy) for engine in self.engines])
        kept = self._cache_fraction(proposal.policy)
        # The full cache against itself is certain.
        resolution = self.resolution if kept < 1 else 0.0
        interval = paired_interval(differences, self.seed, resolution, self.contexts)
        method = proposal.shape.method if proposal.shape else ""
        return Candidate(proposal.label, proposal.policy, kept, interval, method, differences)

    def look(self, proposal: Proposal) -> Estimate | None:
        """What the samples say of `proposal`, or None as soon as it is clear that the goal is missed.

        Wrongly giving up costs a little memory, never quality.
        """
        seen: list[np.ndarray] = []
        for engine in self.engines:
            differences = self._differences_if_hopeful(engine, proposal.policy)
            if differences is None:
                return None
            seen.append(differences)
            if engine is not self.engines[-1] and self._is_hopeless(np.concatenate(seen)):
                return None
        paired = Paired.of(np.concatenate(seen), self.contexts)
        return Estimate(proposal, self._cache_fraction(proposal.policy), paired)

    def would_hold(self, estimate: Estimate) -> bool:
        """True if report samples like those seen would prove it."""
        return foreseen_low(estimate.paired, self.n_judges, self.resolution) >= -self.max_degradation

    def seems_to_hold(self, estimate: Estimate) -> bool:
        """True if the best estimate is within the goal, whatever can be proven."""
        return estimate.paired.mean >= -self.max_degradation

    def disturbance(self, proposal: Proposal) -> float:
        """Mean KL to the full cache, nats per token: dense and cheap where losses of the metric are rare."""
        return float(np.concatenate([engine.evaluate(proposal.policy).kl for engine in self.engines]).mean())

    def smallest(self, shape: Shape, is_good: Callable[[Estimate], bool], below: float = 1.0) -> Estimate | None:
        """`shape` at the smallest budget that `is_good`, if one below a cache of `below` is: a bisection.

        A shape that was found at one budget is not always better with more, so that a bisection over all budgets could
        lose its way: it looks from half to twice that budget only.
        """
        found_at = shape.found_at
        steps = [b for b in BUDGET_STEPS if b < below and (found_at is None or found_at / 2 <= b <= found_at * 2)]
        best: Estimate | None = None
        low, high = -1, len(steps) - 1
        while high > low:
            # The largest first: if that fails, the shape has nothing to offer.
            middle = high if best is None else (low + high) // 2
            if middle == low:
                break
            found = self.look(Proposal.of(shape, steps[middle]))
            if found and is_good(found):
                best, high = found, middle
            elif best is None:
                return None
            else:
                low = middle
        return best

    def _cache_fraction(self, policy: Policy) -> float:
        return float(np.concatenate([engine.evaluate(policy).cache_fraction for engine in self.engines]).mean())

    def _differences(self, engine: Engine, policy: Policy) -> np.ndarray:
        """Points `[sample]` against the full cache."""
        return 100 * (self.grader(engine, policy) - self._full_score(engine))

    def _differences_if_hopeful(self, engine: Engine, policy: Policy) -> np.ndarray | None:
        """`_differences`, unless even full marks on all texts not written yet would miss the goal."""
        if not self.grader.metric.needs_generation:
            return self._differences(engine, policy)
        full, changed = self._full_score(engine), self.grader.changed(engine, policy)
        best = np.where(changed, 1.0, full)  # [sample], as far as is known
        rows = np.flatnonzero(changed)
        for start in range(0, len(rows), WRITTEN_AT_ONCE):
            some = rows[start : start + WRITTEN_AT_ONCE]
            best[some] = self.grader.on(engine, policy, some)
            if 100 * (best - full).mean() < -self.max_degradation:
                return None
        return 100 * (best - full)

    def _is_hopeless(self, differences: np.ndarray) -> bool:
        """True if even the upper end of an interval of the samples seen misses the goal."""
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        return bool(differences.mean() + N_ERRORS * error < -self.max_degradation)

    def _full_score(self, engine: Engine) -> np.ndarray:
        return self.grader(engine, Policy.full(engine.n_layers))
