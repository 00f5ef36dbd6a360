"""What every contender is held to: samples, metric and goal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.expectation import Look
from tuner.judging.grading import Grader
from tuner.judging.intervals import Interval, Paired, paired_interval
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Seen, share_of_all
from tuner.search.racing import at_least


@dataclass(frozen=True)
class Proposal:
    """A policy with a name for the reader; `family`, `method` and `budget` are those of the shape it comes from."""

    label: str
    policy: Policy
    family: str = ""
    method: str = ""
    budget: float = 1.0

    @classmethod
    def of(cls, shape: Shape, budget: float) -> Proposal:
        """`shape` at `budget`."""
        return cls(f"{shape.name} at {100 * budget:.3g}%", shape.at(budget), shape.family, shape.method, budget)


@dataclass(frozen=True)
class Candidate:
    """A policy with its paired difference to the full cache, in points of the task's metric (negative is worse).

    `method` is the known method that it is, such as "h2o", and empty for what was tuned; `differences` `[sample]` are
    those behind the interval, and `contexts` `[sample]` labels that are equal for questions on one context; None where
    each sample has its own.
    """

    label: str
    policy: Policy
    cache_fraction: float
    difference: Interval
    method: str = ""
    differences: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    contexts: np.ndarray | None = field(default=None, compare=False, repr=False)

    def meets(self, max_degradation: float) -> bool:
        """True if even the lower end of the interval is within the goal."""
        return self.difference.low >= -max_degradation


@dataclass(frozen=True)
class Contest:
    """What every contender is held to: the samples of some splits, the task's metric, the goal in points."""

    engines: tuple[Engine, ...]
    grader: Grader
    max_degradation: float
    seed: int

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
        differences, kept = self._differences(proposal.policy), self.cache_fraction(proposal.policy)
        # The full cache against itself is certain.
        resolution = self.resolution if kept < 1 else 0.0
        interval = paired_interval(differences, self.seed, resolution, self.contexts)
        return Candidate(proposal.label, proposal.policy, kept, interval, proposal.method, differences, self.contexts)

    def look(self, policy: Policy) -> Look:
        """The same without an interval, with the KL."""
        return Look(self.kl(policy), Paired.of(self._differences(policy), self.contexts))

    def largest_kl(self, policy: Policy, most: float = math.inf, rival: Policy | None = None) -> float:
        """The largest that any of the splits sees: a search is too kind to what it found on its own samples.

        Where that is over `most`, or in all likelihood, it is what those samples say that were enough to know it. A
        `rival` that was measured on all of them makes that fewer: the difference to it varies less than the KL.
        """
        largest = 0.0
        for engine in sorted(self.engines, key=lambda each: len(each.samples)):
            largest = max(largest, _kl_of(policy, most, engine, rival))
            if largest > most:
                break
        return largest

    def kl(self, policy: Policy) -> float:
        """Mean KL to the full cache, nats per token: no text need be written for it."""
        return float(np.concatenate([engine.evaluate(policy).kl for engine in self.engines]).mean())

    def cache_fraction(self, policy: Policy) -> float:
        """Share that `policy` keeps of the caches of all samples together."""
        fractions = np.concatenate([engine.evaluate(policy).cache_fraction for engine in self.engines])
        return share_of_all(fractions, np.concatenate([engine.n_tokens for engine in self.engines]))

    def _differences(self, policy: Policy) -> np.ndarray:
        """Points `[sample]` against the full cache."""
        full = Policy.full(self.engines[0].n_layers)
        return np.concatenate([100 * (self.grader(each, policy) - self.grader(each, full)) for each in self.engines])


def _kl_of(policy: Policy, most: float, engine: Engine, rival: Policy | None) -> float:
    """Mean KL on the samples of `engine`, or on as many as show that it is over `most`."""
    n, theirs = len(engine.samples), engine.evaluate(rival).kl if rival else None  # [sample]

    def is_over(_place: int, seen: Seen) -> bool:
        if seen.losses.kl.sum() > most * n:
            return True
        return theirs is not None and bool(theirs.mean() + at_least(seen, theirs[None], engine.contexts)[0] > most)

    seen = engine.race([policy], is_over)[0]
    if theirs is None or seen.n == n:
        return float(seen.losses.kl.mean())
    return float(theirs.mean() + (seen.losses.kl - theirs[seen.rows]).mean())
