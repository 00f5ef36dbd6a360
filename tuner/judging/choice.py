"""From many trials to a ladder: what search and select samples say proposes, and what report samples say decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.judging.contest import Contest, Proposal
from tuner.judging.expectation import Expectation
from tuner.judging.shape import Shape
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import TrialRecord
from tuner.search.space import Space
from tuner.watch import Count, Progress, silent

BUDGET_STEPS = tuple(round(0.02 * 1.08**step, 3) for step in range(51))
"""Budgets of a bisection: 2 to 94 %, 8 % of each other apart."""
N_FINALISTS = 12
LOOKED_AT = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Budgets of a known method that the expectation is fitted to, beside the finalists, which are small."""
FLATTER = {1.0: "", 0.5: ", half as steep,", 0.25: ", a quarter as steep,"}
"""Few search samples make a shape too bold: a head whose rare use they do not show gets nothing. So it is tried flatter
as well."""
RUNGS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 0.25, 0.35, 0.5, 0.7, 1.4, 2.0)
"""What the other rungs of a ladder are expected to lose, over what the proposal loses that it is built around."""


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
class Choice:
    """What was chosen, of the search and of the known methods: None where nothing is expected to hold.

    `finalists` are trials of the search's front; `expectation` is what all estimates rest on.
    """

    picked: Ladder | None
    known: Ladder | None
    finalists: list[Estimate]
    expectation: Expectation


def choose(
    seen: Contest, n_judges: int, space: Space, records: Sequence[TrialRecord],
    progress: Progress = silent,
) -> Choice:  # fmt: skip
    """A ladder around the smallest cache that promises to hold, among what the search found; one of baselines likewise.

    Nothing is proven here, so nothing is corrected for being the best of many: a proposal that was lucky fails on the
    report samples, and a safer one has passed before it. Shapes of trials on the search's front, as they are and
    flatter, are bisected over budgets, and baselines, among them the best single alpha, in the same way: a tuned policy
    should beat what an engineer could set by hand.

    Args:
        seen: on search and select samples: how what is lost follows the KL, and the KL of each proposal, which is the
            larger of the two. The search has looked for what suits the former, and of the latter there are few.
        n_judges: contexts of the report split.
        space, records: of the search.
        progress: called with (pieces done, pieces in all).
    """
    known_shapes = [Shape.of_baseline(b, space.n_layers) for b in (*BASELINES, *SINGLE_ALPHAS)]
    front = _spread(_front(records), N_FINALISTS)
    shapes = [
        Shape.of_point(f"trial {r.number}{remark}", space, space.flattened(r.params, share), f"trial {r.number}")
        for r in front
        for share, remark in FLATTER.items()
    ]
    own = [Proposal.of(shape, shape.found_at) for shape in shapes if shape.found_at and shape.name == shape.family]
    looked_at = [*own, *(Proposal.of(known_shapes[0], budget) for budget in LOOKED_AT)]
    count = Count(progress, len(looked_at) + 2 * (len(shapes) + len(known_shapes) + len(RUNGS)))
    looks = [seen.look(proposal.policy) for proposal in count.each(looked_at)]
    planner = Planner(seen, Expectation.of(looks, seen.resolution), n_judges)
    picked = planner.ladder(shapes, count)
    known = planner.ladder(known_shapes, count)
    count.close()
    return Choice(picked, known, [planner.estimate(proposal) for proposal in own], planner.expectation)


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

    def ladder(self, shapes: Sequence[Shape], count: Count) -> Ladder | None:
        """Around the smallest that would be proven or, where the report samples can prove nothing, that would hold."""
        goal = self.seen.max_degradation
        around = self._best(count.each(shapes), lambda kl: self.expectation.low(kl, self.n_judges) >= -goal)
        if around:
            count.skip(len(shapes))
        else:
            around = self._losing_at_most(goal, count.each(shapes))
        if around is None:
            return None
        middle = self.estimate(around)
        # A shape that is the best at its own size may leave a head with next to nothing at any size.
        like = [shape for shape in shapes if shape.family == around.family]
        rungs = [around]
        for share in count.each(RUNGS):
            rung = self._losing_at_most(share * middle.lost, like)
            if rung and (rung.budget > around.budget if share < 1 else rung.budget < around.budget):
                rungs.append(rung)
        by_size = {rung.budget: rung for rung in rungs}
        return Ladder(middle, sorted(by_size.values(), key=lambda rung: -rung.budget))

    def _losing_at_most(self, points: float, shapes: Iterable[Shape]) -> Proposal | None:
        return self._best(shapes, lambda kl: self.expectation.lost(kl) <= points)

    def _best(self, shapes: Iterable[Shape], is_good: Callable[[float], bool]) -> Proposal | None:
        """The smallest budget whose KL is good enough, among all shapes."""
        best: Proposal | None = None
        for shape in shapes:
            best = self._smallest(shape, is_good, best.budget if best else 1.0) or best
        return best

    def _smallest(self, shape: Shape, is_good: Callable[[float], bool], below: float) -> Proposal | None:
        """`shape` at the smallest budget whose KL is good enough, if that lies `below`: a bisection."""
        steps = [step for step in BUDGET_STEPS if step < below]
        low, high, found = -1, len(steps), None
        middle = high - 1  # the largest first: if that fails, the shape has nothing to offer
        while low < middle < high:
            proposal = Proposal.of(shape, steps[middle])
            if is_good(self.seen.largest_kl(proposal.policy)):
                found, high = proposal, middle
            elif found is None:
                return None
            else:
                low = middle
            middle = (low + high) // 2
        return found


def _front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that no other beats in both quality and memory, the smallest cache first."""
    front = [r for r in records if r.pareto and not r.is_baseline and r.metrics[MEMORY] < 1]
    return sorted(front, key=lambda record: record.metrics[MEMORY])


def _spread(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]
