"""A ladder of proposals around the smallest cache that promises to hold; every measurement of it is dear.

On a real model one look at a policy costs a third of a second per sample, so budgets are not simply bisected: what was
measured says where to look next, a shape that cannot beat the best so far is dropped as soon as some samples show it,
and the other rungs are read off a curve through a few budgets. The report samples decide on each of them anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.judging.contest import Contest, Proposal
from tuner.judging.expectation import LEAST_KL, Expectation
from tuner.judging.shape import Shape
from tuner.watch import Count

BUDGET_STEPS = tuple(round(0.02 * 1.08**step, 3) for step in range(51))
"""Budgets to choose from: 2 to 94 %, 8 % of each other apart."""
RUNGS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 0.25, 0.35, 0.5, 0.7, 1.4, 2.0)
"""What the other rungs of a ladder are expected to lose, over what the proposal loses that it is built around."""
START = 0.35
"""Budget at which the first known method is looked at."""
STEEP = 2.0
"""KL falls about with the square of the budget: where to look next after one measurement."""
GUIDED = 3
"""Looks that follow that rule; whatever is left then is halved."""
BELOW, ABOVE = 0.75, (1 / 3, 2 / 3)
"""Where a curve is measured beside the proposal's own budget: below it, and on the way to the largest budget."""
POINTS = 2 + len(ABOVE)


@dataclass(frozen=True)
class Estimate:
    """A proposal with the share of the cache that it keeps, and the points that it is expected to lose."""

    proposal: Proposal
    cache_fraction: float
    lost: float


@dataclass(frozen=True)
class Ladder:
    """Proposals from the safest, largest cache to the boldest; `around` is the one that the choice rests on.

    Which of its rungs hold is for the report samples to say (`tuner.judging.proof`).
    """

    around: Estimate
    rungs: list[Proposal]


@dataclass(frozen=True)
class Curve:
    """How the KL of a shape falls as its budget grows: `log_budget` and `log_kl` `[point]`, both measured."""

    shape: Shape
    log_budget: np.ndarray
    log_kl: np.ndarray

    def kl(self, budget: float) -> float:
        """Read off it, nats per token; beyond its ends as steep as at them."""
        x = math.log(budget)
        place = int(np.searchsorted(self.log_budget[1:-1], x))
        left, right = self.log_budget[place : place + 2]
        low, high = self.log_kl[place : place + 2]
        return math.exp(low + (high - low) * (x - left) / (right - left))


@dataclass(frozen=True)
class Planner:
    """Looks for what `n_judges` report contexts would prove, by the larger KL on search and select samples."""

    seen: Contest
    expectation: Expectation
    n_judges: int

    def estimate(self, proposal: Proposal) -> Estimate:
        """What is expected of `proposal`."""
        lost = self.expectation.lost(self.seen.largest_kl(proposal.policy))
        return Estimate(proposal, self.seen.cache_fraction(proposal.policy), lost)

    def needs(self, proposal: Proposal) -> float:
        """A figure by which shapes are tried, the most promising first: those that follow cost less then."""
        return proposal.budget * self.seen.largest_kl(proposal.policy) ** (1 / STEEP)

    def ladder(self, shapes: Sequence[Shape], count: Count) -> Ladder | None:
        """Around the smallest that would be proven or, where the report samples can prove nothing, that would hold."""
        goal = self.seen.max_degradation
        provable = self.expectation.provable(goal, self.n_judges)
        around = self.smallest(count.each(shapes), self.expectation.kl_losing(provable))
        if around:
            count.skip(len(shapes))
        else:
            around = self.smallest(count.each(shapes), self.expectation.kl_losing(goal))
        if around is None:
            return None
        middle = self.estimate(around)
        # A shape that is the best at its own size may leave a head with next to nothing at any size.
        like = [shape for shape in shapes if shape.family == around.family]
        curves = self._curves(like, around.budget, count)
        rungs = {around.budget: around}
        for share in RUNGS:
            rung = _read_off(curves, self.expectation.kl_losing(share * middle.lost))
            if rung and (rung.budget > around.budget if share < 1 else rung.budget < around.budget):
                rungs[rung.budget] = rung
        return Ladder(middle, sorted(rungs.values(), key=lambda each: -each.budget))

    def smallest(self, shapes: Iterable[Shape], most_kl: float) -> Proposal | None:
        """The smallest budget at which the KL of one of `shapes` is at most `most_kl`."""
        best: Proposal | None = None
        for shape in shapes if most_kl >= 0 else ():
            best = self._smallest(shape, most_kl, best) or best
        return best

    def _smallest(self, shape: Shape, most_kl: float, best: Proposal | None) -> Proposal | None:
        """`shape` at the smallest budget whose KL is at most `most_kl`, if that is smaller than that of `best`."""
        steps = [step for step in BUDGET_STEPS if best is None or step < best.budget]
        low, high = -1, len(steps)  # the places of a budget that is too small, and of one that is large enough
        place = high - 1 if best else _nearest(steps, shape.found_at or START)
        looks = 0
        while high - low > 1:
            place = min(max(place, low + 1), high - 1)
            kl = self.seen.largest_kl(shape.at(steps[place]), most_kl, best.policy if best else None)
            low, high = (low, place) if kl <= most_kl else (place, high)
            looks += 1
            guided = looks < GUIDED and most_kl > 0
            place = _nearest(steps, steps[place] * (kl / most_kl) ** (1 / STEEP)) if guided else (low + high) // 2
        return Proposal.of(shape, steps[high]) if high < len(steps) else None

    def _curves(self, shapes: Sequence[Shape], budget: float, count: Count) -> list[Curve]:
        """Of every shape, through `budget`, one below it and some above.

        Only the best at a budget is measured to the end: the others are not going to be read off there.
        """
        largest = BUDGET_STEPS[-1]
        above = [budget ** (1 - part) * largest**part for part in ABOVE]
        budgets = sorted({max(BELOW * budget, BUDGET_STEPS[0]), budget, *above})
        kls = np.zeros((len(shapes), len(budgets)))  # [shape, budget]
        for column, each in enumerate(budgets):
            least, best = math.inf, None
            for row, shape in enumerate(count.each(shapes)):
                kls[row, column] = self.seen.largest_kl(shape.at(each), least, best)
                if kls[row, column] < least:
                    least, best = kls[row, column], shape.at(each)
        log_kls = np.log(np.maximum(kls, LEAST_KL))
        return [Curve(s, np.log(budgets), np.minimum.accumulate(row)) for s, row in zip(shapes, log_kls, strict=True)]


def _read_off(curves: Sequence[Curve], most_kl: float) -> Proposal | None:
    """The smallest budget at which one of `curves` says a KL of at most `most_kl`."""
    for step in BUDGET_STEPS:
        best = min(curves, key=lambda curve: curve.kl(step))
        if best.kl(step) <= most_kl:
            return Proposal.of(best.shape, step)
    return None


def _nearest(steps: Sequence[float], budget: float) -> int:
    return min(range(len(steps)), key=lambda place: abs(steps[place] - budget))
