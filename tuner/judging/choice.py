"""From many trials to one answer: finalists are re-scored on samples that the search never saw, and one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.judging.contest import Candidate, Contest
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import Params, TrialRecord, policy_from

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


@dataclass(frozen=True)
class _Shape:
    """A point whose budget is to be found: near `around`, or anywhere. `method` is that of a known one."""

    params: Params
    around: float | None
    method: str = ""

    def bisect(self, contest: Contest, name: str) -> list[Candidate]:
        return contest.bisect(name, self.params, self.around, self.method)


def choose(contest: Contest, records: Sequence[TrialRecord]) -> Choice:
    """The smallest cache that meets the goal on the select split, among what the search found and among the baselines.

    Finalists are trials of the search's front, all but those that surely miss the goal, and some of them at other
    budgets too: the shape that a trial found carries over. Baselines, among them the best single alpha, are bisected
    over budgets in the same way: a tuned policy should beat what an engineer could set by hand.
    """
    hopeful = _not_beyond(records, contest.max_degradation)
    first = replace(contest, confidence=FIRST_CONFIDENCE)
    single = [first.measure(f"trial {r.number}", policy_from(r), r.params) for r in hopeful]
    shapes = {
        f"trial {r.number}{remark} at": _Shape(contest.space.flattened(r.params, share), float(r.params["budget"]))
        for r in _spread(hopeful, N_SHAPES)
        for share, remark in FLATTER.items()
    }
    picked, finalists, confidence = _best(first, shapes, single)
    known = {b.name: _Shape(b.params(1.0), None, b.name) for b in (*BASELINES, *SINGLE_ALPHAS)}
    ladder, _, _ = _best(first, known, [])
    return Choice(picked, ladder, finalists, confidence)


def _best(
    first: Contest, shapes: Mapping[str, _Shape], others: list[Candidate]
) -> tuple[list[Candidate], list[Candidate], float]:
    """Two rounds: all shapes at a first confidence, then the best few at the one that is right for so many."""
    rounds = {name: shape.bisect(first, name) for name, shape in shapes.items()}
    tried = [*others, *(candidate for row in rounds.values() for candidate in row)]
    strict = first.held_to(tried)
    winners = {name: best.cache_fraction for name, row in rounds.items() if (best := first.winner(row))}
    again = [strict.measure(c.label, c.policy, c.params, c.method) for c in others]
    for name in sorted(winners, key=winners.__getitem__)[:N_RUNNERS_UP]:
        again += shapes[name].bisect(strict, name)
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
        budget = round(float(best.params["budget"]) * more, 4)
        if budget < 1:
            rung = contest.measure_if_hopeful(
                f"{best.label}, x {more:g}", {**best.params, "budget": budget}, best.method
            )
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
