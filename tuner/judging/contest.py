"""From many trials to one answer: finalists are re-scored on samples that the search never saw, and one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.grading import Scorer
from tuner.judging.intervals import CONFIDENCE, Interval, level_for_many, paired_interval, with_unseen_loss
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses, Seen
from tuner.search.baselines import BASELINES, SINGLE_ALPHAS
from tuner.search.records import Params, TrialRecord
from tuner.search.space import Space
from tuner.search.study import MEMORY, policy_from

N_FINALISTS, N_BEYOND, N_SHAPES, N_RUNNERS_UP = 10, 3, 4, 3
FLATTER = {1.0: "", 0.5: ", half as steep,"}
"""Few search samples make a shape too bold: a head whose rare use they do not show gets nothing. So it is tried flatter
as well, and the select samples decide."""
BUDGET_STEPS = tuple(round(0.02 * 1.08**step, 3) for step in range(51))
"""Budgets of a bisection: 2 to 94 %, 8 % of each other apart."""
FIRST_CONFIDENCE = 0.99
"""Of the first round of a choice, before it is known how many candidates there are and how alike they are."""
GENERATE_AT_ONCE = 16
RUNGS = (1.1, 1.25, 1.5, 2.0, 3.0)
"""Sizes of the ladder, over that of its last rung."""
N_ERRORS = 2.5
"""Standard errors that a mean must miss the goal by to be given up early."""


@dataclass(frozen=True)
class Candidate:
    """A policy with its paired difference to the full cache, in points of the task's metric (negative is worse).

    ``paired`` are the differences ``[sample]`` behind the interval; ``params`` the point of the space it came from.
    """

    label: str
    policy: Policy
    cache_fraction: float
    difference: Interval
    params: Params = field(default_factory=dict, compare=False, repr=False)
    paired: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)

    def meets(self, max_degradation: float) -> bool:
        """True if even the lower end of the interval is within the goal."""
        return self.difference.low >= -max_degradation


@dataclass(frozen=True)
class Contest:
    """What every contender is held to: the samples of one split, the task's metric, the goal in points."""

    engine: Engine
    scorer: Scorer
    space: Space
    max_degradation: float
    seed: int
    confidence: float = CONFIDENCE

    def measure(self, label: str, policy: Policy, params: Params | None = None) -> Candidate:
        """Measure ``policy`` on all samples against the full cache."""
        losses = self.engine.evaluate(policy)
        paired = 100 * (self.scorer(self.engine, policy) - self._full_score())
        interval = paired_interval(paired, self.seed, self.confidence, self._resolution(losses))
        return Candidate(label, policy, float(losses.cache_fraction.mean()), interval, params or {}, paired)

    def measure_if_hopeful(self, label: str, params: Params) -> Candidate | None:
        """`measure`, or None as soon as it is clear that the goal is missed.

        Wrongly giving up costs a little memory, never quality. Where texts must be written, those that hurt most (by
        the likelihood, which is cheap) come first, until even full marks on all the rest would not do.
        """
        full, policy = self._full_score(), self.space.policy(params)
        if not self.scorer.metric.needs_generation:
            seen = self.engine.race([policy], lambda _, seen: self._is_hopeless(seen))[0]
            return self.measure(label, policy, params) if seen.n == len(full) else None
        hurt = self.engine.evaluate(policy).nll - self.engine.evaluate(Policy.full(self.engine.n_layers)).nll
        order = np.argsort(-hurt)
        for stop in range(GENERATE_AT_ONCE, len(order), GENERATE_AT_ONCE):
            rows = order[:stop]
            if self._out_of_reach(self.scorer.on(self.engine, policy, rows), rows):
                return None
        return self.measure(label, policy, params)

    def _is_hopeless(self, seen: Seen) -> bool:
        """True if even the upper end of an interval of the samples seen, a random part, misses the goal."""
        paired = 100 * (seen.losses.accuracy - self._full_score()[seen.rows])
        return bool(paired.mean() + N_ERRORS * paired.std(ddof=1) / np.sqrt(seen.n) < -self.max_degradation)

    def _out_of_reach(self, scores: np.ndarray, rows: np.ndarray) -> bool:
        """True if the mean difference misses the goal even with full marks on all samples but ``rows``."""
        full = self._full_score()
        unseen = np.delete(full, rows)
        best = (scores - full[rows]).sum() + (1 - unseen).sum()
        return bool(100 * best / len(full) < -self.max_degradation)

    def with_unseen(self, candidate: Candidate) -> np.ndarray:
        """The candidate's differences and one loss that was not seen: see `with_unseen_loss`."""
        return with_unseen_loss(candidate.paired, self.scorer.resolution(self.engine))

    def _full_score(self) -> np.ndarray:
        return self.scorer(self.engine, Policy.full(self.engine.n_layers))

    def _resolution(self, losses: Losses) -> float:
        # The full cache against itself is certain.
        return self.scorer.resolution(self.engine) if losses.cache_fraction.min() < 1 else 0.0

    def smallest(self, name: str, params: Params, around: float | None = None) -> list[Candidate]:
        """``params`` at several budgets: a bisection for the smallest one that meets the goal, all steps of it.

        Args:
            around: look from half to twice this budget only. A shape that was found at one budget is not always better
                with more, so a bisection over all budgets could lose its way.
        """
        tried = []
        steps = [b for b in BUDGET_STEPS if around is None or around / 2 <= b <= around * 2]
        low, high = -1, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            found = self.measure_if_hopeful(f"{name} {steps[middle]:g}", {**params, "budget": steps[middle]})
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


@dataclass(frozen=True)
class Choice:
    """What was chosen on the select split, of the search and of the baselines (``by_hand``): a ladder each.

    A ladder begins with a safer, larger cache and ends with the smallest that met the goal; it is empty if none did.
    Which of its rungs hold is for the report split to say (`tuner.judging.proof`). ``finalists`` are all that the
    search sent; ``confidence`` is what they were held to, being so many.
    """

    picked: list[Candidate]
    by_hand: list[Candidate]
    finalists: list[Candidate]
    confidence: float


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
        f"trial {r.number}{remark} at": (contest.space.flattened(r.params, share), float(r.params["budget"]))
        for r in _spread(hopeful, N_SHAPES)
        for share, remark in FLATTER.items()
    }
    picked, finalists, confidence = _best(first, shapes, single)
    baselines = {baseline.name: (baseline.params(1.0), None) for baseline in (*BASELINES, *SINGLE_ALPHAS)}
    baseline, _, _ = _best(first, baselines, [])
    return Choice(picked, baseline, finalists, confidence)


def _best(
    first: Contest, shapes: Mapping[str, tuple[Params, float | None]], others: list[Candidate]
) -> tuple[list[Candidate], list[Candidate], float]:
    """Two rounds: all shapes at a first confidence, then the best few at the one that is right for so many."""
    rounds = {name: first.smallest(name, *shape) for name, shape in shapes.items()}
    tried = [*others, *(candidate for row in rounds.values() for candidate in row)]
    strict = first.held_to(tried)
    winners = {name: best.cache_fraction for name, row in rounds.items() if (best := first.winner(row))}
    again = [strict.measure(candidate.label, candidate.policy, candidate.params) for candidate in others]
    for name in sorted(winners, key=winners.__getitem__)[:N_RUNNERS_UP]:
        again += strict.smallest(name, *shapes[name])
    best = strict.winner(again)
    return _ladder(strict, best, again) if best else [], tried, strict.confidence


def _ladder(contest: Contest, best: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    """``best`` last, and before it larger and larger caches that meet the goal.

    They are of its shape where that meets the goal with more memory too, which it need not; else of another.
    """
    rungs = [best]
    for more in RUNGS:
        wanted = more * best.cache_fraction
        options = [c for c in others if c.cache_fraction >= wanted and c.meets(contest.max_degradation)]
        budget = round(float(best.params["budget"]) * more, 4)
        if budget < 1:
            rung = contest.measure_if_hopeful(f"{best.label}, x {more:g}", {**best.params, "budget": budget})
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


def cache_bytes(losses: Losses, engine: Engine) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    full = tokens * engine.bytes_per_token
    return int(full.mean()), int((full * losses.cache_fraction).mean())
