"""From many trials to one answer: finalists are re-scored on samples that the search never saw, one is chosen, and the
report split is touched once, for the figures that the user sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from a2sf_core.policy import Policy
from tuner.engine import Engine
from tuner.evidence import Interval, paired_interval
from tuner.losses import Losses
from tuner.records import TrialRecord
from tuner.space import BASELINES, policy_of
from tuner.study import MEMORY, policy_from

N_FINALISTS = 16
BUDGET_STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))
CHOOSING_CONFIDENCE = 0.99
"""Choosing among many candidates favours the lucky ones, so they are held to a wider interval than the report's."""

Score = Callable[[Engine, Policy], np.ndarray]
"""Per-sample figures ``[sample]`` of the task's metric, 0 to 1, higher is better."""


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


def compare(
    engine: Engine, label: str, policy: Policy, score: Score, full: np.ndarray, seed: int, confidence: float
) -> Candidate:
    """Measure ``policy`` on all samples of ``engine`` against the full cache's ``full`` ``[sample]``."""
    losses = engine.evaluate(policy)
    difference = paired_interval(100 * (score(engine, policy) - full), seed, confidence)
    return Candidate(label, policy, float(losses.cache_fraction.mean()), difference)


def accuracy(engine: Engine, policy: Policy) -> np.ndarray:
    """The teacher-forced token accuracy, which needs no generation."""
    return engine.evaluate(policy).accuracy


def choose(
    engine: Engine, records: Sequence[TrialRecord], max_degradation: float, score: Score, seed: int
) -> tuple[Candidate | None, list[Candidate]]:
    """The smallest cache that meets the goal on the select split, and all finalists by size.

    Finalists are the most promising trials of the search: the smallest caches among those that no other trial beats in
    both quality and memory and whose loss on the search split is not already beyond twice the goal.
    """
    promising = [
        record for record in records if record.pareto and record.metrics["accuracy_drop_points"] <= 2 * max_degradation
    ]
    promising.sort(key=lambda record: record.metrics[MEMORY])
    full = score(engine, Policy.full(engine.n_layers))
    finalists = [
        compare(engine, f"trial {record.number}", policy_from(record), score, full, seed, CHOOSING_CONFIDENCE)
        for record in promising[:N_FINALISTS]
    ]
    good = [candidate for candidate in finalists if candidate.meets(max_degradation)]
    return (min(good, key=lambda c: c.cache_fraction) if good else None), finalists


def best_baseline(engine: Engine, max_degradation: float, score: Score, seed: int) -> Candidate | None:
    """The smallest cache at which some baseline meets the goal on the select split; None if none does below full.

    Each method's budget is searched by bisection over steps of 5 %, which is more than the trials gave it: a tuned
    policy should beat what an engineer could have set by hand.
    """
    full = score(engine, Policy.full(engine.n_layers))
    best: Candidate | None = None
    for baseline in BASELINES:
        low, high = -1, len(BUDGET_STEPS)
        while high - low > 1:
            middle = (low + high) // 2
            policy = policy_of(baseline.params(BUDGET_STEPS[middle]), engine.n_layers)
            found = compare(
                engine,
                f"{baseline.name} {BUDGET_STEPS[middle]:g}",
                policy,
                score,
                full,
                seed,
                CHOOSING_CONFIDENCE,
            )
            if found.meets(max_degradation):
                high = middle
                if best is None or found.cache_fraction < best.cache_fraction:
                    best = found
            else:
                low = middle
    return best


def cache_bytes(losses: Losses, engine: Engine) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    per_token = engine.bytes_per_token
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    return int((tokens * per_token).mean()), int((tokens * losses.cache_fraction * per_token).mean())
