"""From many trials to a ladder: what search and select samples say proposes, and what report samples say decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.judging.contest import Contest, Estimate, Proposal
from tuner.judging.shape import Shape
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import TrialRecord, policy_from
from tuner.search.space import Space
from tuner.watch import Count, Progress, silent

N_FINALISTS = 12
FLATTER = {1.0: "", 0.5: ", half as steep,"}
"""Few search samples make a shape too bold: a head whose rare use they do not show gets nothing. So it is tried flatter
as well."""
RUNGS = (8.0, 4.0, 3.0, 2.0, 1.5, 1.25, 1.1, 1.0, 0.9, 0.8)
"""Sizes of the ladder, over that of the proposal that it is built around."""


@dataclass(frozen=True)
class Ladder:
    """Proposals from the safest, largest cache to the boldest; `around` is the one that the choice rests on.

    Which of its rungs hold is for the report samples to say (`tuner.judging.proof`).
    """

    around: Estimate
    rungs: list[Proposal]


@dataclass(frozen=True)
class Choice:
    """What was chosen, of the search and of the known methods. None where nothing seems to hold.

    `finalists` are all that the search sent and that was not given up early.
    """

    picked: Ladder | None
    known: Ladder | None
    finalists: list[Estimate]


def choose(contest: Contest, space: Space, records: Sequence[TrialRecord], progress: Progress = silent) -> Choice:
    """A ladder around the smallest cache that promises to hold, among what the search found; one of baselines likewise.

    Nothing is proven here, so nothing is corrected for being the best of many: a proposal that was lucky fails on the
    report samples, and a safer one has passed before it. Trials of the search's front are tried at their own budget,
    and their shapes, steep and flatter, at others. Baselines, among them the best single alpha, are bisected in the
    same way: a tuned policy should beat what an engineer could set by hand.
    """
    known_shapes = [Shape.of_baseline(b, space.n_layers) for b in (*BASELINES, *SINGLE_ALPHAS)]
    front = _spread(_front(records), N_FINALISTS)
    singles = [
        Proposal(f"trial {r.number}", policy_from(r), _shape(space, r), float(r.params["budget"])) for r in front
    ]
    shapes = [_shape(space, r, share, remark) for r in front for share, remark in FLATTER.items()]
    count = Count(progress, len(singles) + len(shapes) + len(known_shapes))
    finalists = [estimate for proposal in count.each(singles) if (estimate := contest.look(proposal))]
    picked = _ladder(contest, finalists, shapes, count)
    known = _ladder(contest, [], known_shapes, count)
    count.close()
    return Choice(picked, known, finalists)


def _ladder(contest: Contest, singles: Sequence[Estimate], shapes: Sequence[Shape], count: Count) -> Ladder | None:
    """Around the smallest that would be proven or, where the report samples can prove nothing, that seems to hold."""
    around = _smallest(contest, singles, count.each(shapes), contest.would_hold)
    around = around or _smallest(contest, singles, shapes, contest.seems_to_hold)
    if around is None:
        return None
    best = around.proposal
    like = [shape for shape in shapes if best.shape and shape.family == best.shape.family]
    rungs = []
    for size in RUNGS:
        budget = round(best.budget * size, 4)
        if size == 1.0:
            rungs.append(best)
        elif budget < 1:
            # A shape that is the best at its own size may leave a head with next to nothing at any size.
            rungs.append(min((Proposal.of(shape, budget) for shape in like), key=contest.disturbance))
    return Ladder(around, rungs)


def _smallest(
    contest: Contest, singles: Sequence[Estimate], shapes: Iterable[Shape], is_good: Callable[[Estimate], bool]
) -> Estimate | None:
    """The smallest cache that `is_good`: of those measured already, and of `shapes` where they may beat it."""
    best = min((e for e in singles if is_good(e)), key=lambda e: e.cache_fraction, default=None)
    for shape in shapes:
        found = contest.smallest(shape, is_good, best.cache_fraction if best else 1.0)
        if found and (best is None or found.cache_fraction < best.cache_fraction):
            best = found
    return best


def _shape(space: Space, record: TrialRecord, share: float = 1.0, remark: str = "") -> Shape:
    params = record.params if share == 1.0 else space.flattened(record.params, share)
    return Shape.of_point(f"trial {record.number}{remark}", space, params, family=f"trial {record.number}")


def _front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that no other beats in both quality and memory, the smallest cache first."""
    front = [r for r in records if r.pareto and not r.is_baseline and r.metrics[MEMORY] < 1]
    return sorted(front, key=lambda record: record.metrics[MEMORY])


def _spread(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]
