"""From many trials to one answer: finalists are re-scored on samples that the search never saw, and one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.judging.contest import Candidate, Contest
from tuner.judging.shape import Shape
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import TrialRecord, policy_from
from tuner.search.space import Space

N_FINALISTS, N_BEYOND, N_SHAPES, N_RUNNERS_UP = 10, 3, 4, 3
FLATTER = {1.0: "", 0.5: ", half as steep,"}
"""Few search samples make a shape too bold: a head whose rare use they do not show gets nothing. So it is tried flatter
as well, and the select samples decide."""
FIRST_CONFIDENCE = 0.99
"""Of the first round of a choice, before it is known how many candidates there are and how alike they are."""
RUNGS = (1.1, 1.25, 1.5, 2.0, 3.0)
"""Sizes of the ladder, over that of its last rung."""


@dataclass(frozen=True)
class Choice:
    """What was chosen on the select split, of the search and of the baselines (`known`): a ladder each.

    A ladder begins with a safer, larger cache and ends with the smallest that met the goal; it is empty if none did.
    Which of its rungs hold is for the report split to say (`tuner.judging.proof`). `finalists` are all that the
    search sent; `confidence` is what they were held to, being so many.
    """

    picked: list[Candidate]
    known: list[Candidate]
    finalists: list[Candidate]
    confidence: float


def choose(contest: Contest, space: Space, records: Sequence[TrialRecord]) -> Choice:
    """The smallest cache that meets the goal on the select split, among what the search found and among the baselines.

    Finalists are trials of the search's front, all but those that surely miss the goal, and some of them at other
    budgets too: the shape that a trial found carries over. Baselines, among them the best single alpha, are bisected
    over budgets in the same way: a tuned policy should beat what an engineer could set by hand.
    """
    hopeful = _not_beyond(records, contest.max_degradation)
    first = replace(contest, confidence=FIRST_CONFIDENCE)
    single = []
    for record in hopeful:
        label = f"trial {record.number}"
        shape = Shape.of_point(label, space, record.params)
        single.append(first.measure(label, policy_from(record), shape, float(record.params["budget"])))
    shapes = [
        Shape.of_point(f"trial {r.number}{remark} at", space, space.flattened(r.params, share))
        for r in _spread(hopeful, N_SHAPES)
        for share, remark in FLATTER.items()
    ]
    picked, finalists, confidence = _best(first, shapes, single)
    known = [Shape.of_baseline(b, contest.engine.n_layers) for b in (*BASELINES, *SINGLE_ALPHAS)]
    ladder, _, _ = _best(first, known, [])
    return Choice(picked, ladder, finalists, confidence)


def _best(
    first: Contest, shapes: Sequence[Shape], others: list[Candidate]
) -> tuple[list[Candidate], list[Candidate], float]:
    """Two rounds: all shapes at a first confidence, then the best few at the one that is right for so many."""
    rounds = [(shape, first.bisect(shape)) for shape in shapes]
    tried = [*others, *(candidate for _, row in rounds for candidate in row)]
    strict = first.held_to(tried)
    winners = [(best.cache_fraction, shape) for shape, row in rounds if (best := first.winner(row))]
    again = [strict.measure_again(candidate) for candidate in others]
    for _, shape in sorted(winners, key=lambda winner: winner[0])[:N_RUNNERS_UP]:
        again += strict.bisect(shape)
    best = strict.winner(again)
    return _ladder(strict, best, again) if best else [], tried, strict.confidence


def _ladder(contest: Contest, best: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    """`best` last, and before it larger and larger caches that meet the goal.

    They are of its shape where that meets the goal with more memory too, which it need not; else of another.
    """
    rungs = [best]
    for more in RUNGS:
        wanted = more * best.cache_fraction
        options = [c for c in others if c.cache_fraction >= wanted and c.meets(contest.max_degradation)]
        budget = round(best.budget * more, 4)
        if best.shape and budget < 1:
            rung = contest.measure_if_hopeful(f"{best.label}, x {more:g}", best.shape, budget)
            options = [rung] if rung and rung.meets(contest.max_degradation) else options
        if options:
            rungs.append(min(options, key=lambda candidate: candidate.cache_fraction))
    return sorted({rung.policy: rung for rung in rungs}.values(), key=lambda rung: -rung.cache_fraction)


def _not_beyond(records: Sequence[TrialRecord], max_degradation: float) -> list[TrialRecord]:
    """Trials that no other beats in both quality and memory, from a few that the search puts beyond the goal upwards.

    Upwards without end, because how much room an interval needs is for the select samples to show.
    """
    front = [r for r in records if r.pareto and not r.is_baseline and r.metrics[MEMORY] < 1]
    front.sort(key=lambda record: record.metrics[MEMORY])
    meets = (i for i, r in enumerate(front) if r.metrics["accuracy_drop_points"] <= max_degradation)
    first = max(0, next(meets, len(front)) - N_BEYOND)
    return _spread(front[first:], N_FINALISTS)


def _spread(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]
