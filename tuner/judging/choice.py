"""From many trials to a ladder: what search and select samples say proposes, and what report samples say decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.judging.contest import Contest, Proposal
from tuner.judging.expectation import Expectation
from tuner.judging.ladder import POINTS, Estimate, Ladder, Planner
from tuner.judging.shape import Shape
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import TrialRecord
from tuner.search.space import Space
from tuner.watch import Count, Progress, silent

N_FINALISTS = 12
LOOKED_AT = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Budgets of a known method that the expectation is fitted to, beside the finalists, which are small."""
FLATTER = {1.0: "", 0.5: ", half as steep,", 0.25: ", a quarter as steep,"}
"""Few search samples make a shape too bold: a head whose rare use they do not show gets nothing. So it is tried flatter
as well."""


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
    flatter, are taken to the smallest budget that promises enough, and baselines, among them the best single alpha, in
    the same way: a tuned policy should beat what an engineer could set by hand.

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
    pieces = len(looked_at) + 2 * (len(shapes) + len(known_shapes)) + (len(FLATTER) + 1) * POINTS
    count = Count(progress, pieces)
    looks = [seen.look(proposal.policy) for proposal in count.each(looked_at)]
    planner = Planner(seen, Expectation.of(looks, seen.resolution), n_judges)
    needs = {proposal.family: planner.needs(proposal) for proposal in own}
    picked = planner.ladder(sorted(shapes, key=lambda shape: needs[shape.family]), count)
    known = planner.ladder(known_shapes, count)
    count.close()
    return Choice(picked, known, [planner.estimate(proposal) for proposal in own], planner.expectation)


def _front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that no other beats in both quality and memory, the smallest cache first."""
    front = [r for r in records if r.pareto and not r.is_baseline and r.metrics[MEMORY] < 1]
    return sorted(front, key=lambda record: record.metrics[MEMORY])


def _spread(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]
