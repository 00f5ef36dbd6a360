"""From many trials to one answer: finalists are re-scored on samples that the search never saw, and one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from a2sf_core.policy import Policy
from tuner.engine import Engine
from tuner.evidence import Interval, paired_interval
from tuner.losses import Losses
from tuner.records import TrialRecord
from tuner.scoring import Scorer
from tuner.space import BASELINES, SINGLE_ALPHAS, Params, policy_of
from tuner.study import MEMORY, policy_from

N_FINALISTS, N_SHAPES = 24, 8
BUDGET_STEPS = tuple(round(0.02 * step, 2) for step in range(1, 50))
CHOOSING_CONFIDENCE = 0.99
"""Choosing among many candidates favours the lucky ones, so they are held to a wider interval than the report's."""


@dataclass(frozen=True)
class Candidate:
    """A policy with its paired difference to the full cache, in points of the task's metric (negative is worse)."""

    label: str
    policy: Policy
    cache_fraction: float
    difference: Interval

    def meets(self, max_degradation: float) -> bool:
        """True if even the lower end of the interval is within the goal."""
        return self.difference.low >= -max_degradation


@dataclass(frozen=True)
class Contest:
    """What every contender is held to: the samples of one split, the task's metric, the goal in points."""

    engine: Engine
    scorer: Scorer
    max_degradation: float
    seed: int
    confidence: float

    def measure(self, label: str, policy: Policy) -> Candidate:
        """Measure ``policy`` on all samples against the full cache."""
        full = self.scorer(self.engine, Policy.full(self.engine.n_layers))
        losses = self.engine.evaluate(policy)
        differences = 100 * (self.scorer(self.engine, policy) - full)
        # The full cache against itself is certain.
        resolution = self.scorer.resolution(self.engine) if losses.cache_fraction.min() < 1 else 0.0
        interval = paired_interval(differences, self.seed, self.confidence, resolution)
        return Candidate(label, policy, float(losses.cache_fraction.mean()), interval)

    def smallest(self, name: str, params: Params) -> list[Candidate]:
        """``params`` at several budgets: a bisection for the smallest one that meets the goal, all steps of it."""
        tried = []
        low, high = -1, len(BUDGET_STEPS)
        while high - low > 1:
            middle = (low + high) // 2
            budget = BUDGET_STEPS[middle]
            policy = policy_of({**params, "budget": budget}, self.engine.n_layers)
            tried.append(self.measure(f"{name} {budget:g}", policy))
            low, high = (low, middle) if tried[-1].meets(self.max_degradation) else (middle, high)
        return tried

    def winner(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The smallest cache among those that meet the goal; None if none does."""
        good = [candidate for candidate in candidates if candidate.meets(self.max_degradation)]
        return min(good, key=lambda candidate: candidate.cache_fraction, default=None)


def choose(contest: Contest, records: Sequence[TrialRecord]) -> tuple[Candidate | None, list[Candidate]]:
    """The smallest cache that meets the goal on the select split, and all finalists.

    Finalists are trials of the search, spread evenly over those that no other beats in both quality and memory, and
    some of them at other budgets too: the shape that a trial found carries over. Baselines have their own contest.
    """
    front = [record for record in records if record.pareto and record.label == "search" and record.metrics[MEMORY] < 1]
    front.sort(key=lambda record: record.metrics[MEMORY])
    finalists = [contest.measure(f"trial {r.number}", policy_from(r)) for r in _spread(front, N_FINALISTS)]
    for record in _spread(front, N_SHAPES):
        finalists += contest.smallest(f"trial {record.number} at", record.params)
    return contest.winner(finalists), finalists


def best_baseline(contest: Contest) -> Candidate | None:
    """The smallest cache at which some baseline meets the goal on the select split; None if none does below full.

    Among the baselines is the best single alpha: uniform A2SF with each of several half-lives. Each method's budget is
    searched like that of the tuned shapes, which is finer than the trials gave it: a tuned policy should beat what an
    engineer could have set by hand.
    """
    tried = [
        candidate
        for baseline in (*BASELINES, *SINGLE_ALPHAS)
        for candidate in contest.smallest(baseline.name, baseline.params(1.0))
    ]
    return contest.winner(tried)


def _spread(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]


def cache_bytes(losses: Losses, engine: Engine) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    full = tokens * engine.bytes_per_token
    return int(full.mean()), int((full * losses.cache_fraction).mean())
