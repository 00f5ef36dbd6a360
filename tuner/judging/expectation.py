"""What a policy will lose, expected from how much it disturbs the model: dense where lost answers are few and coarse.

One whole answer in a hundred is a loss that a hundred samples may not show, and the best of many candidates is one
where they did not. The divergence of the next-token distributions, KL(full cache || policy), is there for every token
of every sample. Over the policies of one model and task, what is lost follows it closely (docs/verdict.md has the
figures), so the line between the two, fitted to all policies at once, says more of one than its own few lost answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import PoissonRegressor

from tuner.judging.intervals import ERRORS_EACH_SIDE, Paired

LEAST_KL = 1e-9
"""Nats per token; a policy that changes nothing at all has no logarithm."""
RIDGE = 1e-6
MOST_LOG_KL = 100.0
"""No KL is larger."""


@dataclass(frozen=True)
class Look:
    """What some samples say of a policy: mean KL to the full cache, nats per token, and differences in points."""

    kl: float
    paired: Paired


@dataclass(frozen=True)
class Expectation:
    """Points lost = exp(`intercept` + `slope` * log KL).

    `variance` is that of one context's difference, in points squared, per point lost; `resolution`: see
    `tuner.inputs.power.resolution`.
    """

    intercept: float
    slope: float
    variance: float
    resolution: float

    @classmethod
    def of(cls, looks: Sequence[Look], resolution: float) -> Expectation:
        """Fitted to what the same samples say of several policies: a Poisson regression on log KL."""
        kl = np.array([max(look.kl, LEAST_KL) for look in looks])  # [policy]
        lost = np.array([max(-look.paired.mean, 0.0) for look in looks])  # [policy]
        seen = np.array([float(look.paired.n_contexts) for look in looks])  # [policy]
        # One sample more, lost under a middling policy: that none was seen does not mean that none will be.
        x = np.log(np.append(kl, np.exp(np.log(kl).mean())))[:, None]  # [policy + 1, 1]
        line = PoissonRegressor(alpha=RIDGE, max_iter=1000)
        line.fit(x, np.append(lost, resolution), sample_weight=np.append(seen, 1.0))
        slope = float(line.coef_[0])
        spread = sum(look.paired.spread**2 for look in looks)
        variance = max(spread / lost.sum() if lost.any() else 0.0, resolution)
        return cls(float(line.intercept_), max(slope, 0.0), variance, resolution)

    def lost(self, kl: float) -> float:
        """Points that a policy of this KL is expected to lose."""
        return math.exp(self.intercept + self.slope * math.log(max(kl, LEAST_KL)))

    def kl_losing(self, points: float) -> float:
        """The largest KL that is expected to lose at most `points`; -inf where even the least loses more."""
        if self.lost(LEAST_KL) > points:
            return -math.inf
        return math.exp(min((math.log(points) - self.intercept) / self.slope, MOST_LOG_KL)) if self.slope else math.inf

    def provable(self, goal: float, n: int) -> float:
        """Points that may be expected to be lost for an interval on `n` contexts to end within `goal`: for planning.

        Its lower end is about the mean less two standard errors, one unseen loss and the step beyond a percentile
        included.
        """
        half = ERRORS_EACH_SIDE * math.sqrt(self.variance / (n + 1)) / 2
        with_unseen = (math.sqrt(half**2 + goal) - half) ** 2  # goal = x^2 + 2 half x
        return (with_unseen * (n + 1) - 2 * self.resolution) / n
