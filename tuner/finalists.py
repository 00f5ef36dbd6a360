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
from tuner.space import BASELINES, SINGLE_ALPHAS, policy_of
from tuner.study import MEMORY, policy_from

N_FINALISTS = 24
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


def compare(
    engine: Engine, label: str, policy: Policy, scorer: Scorer, full: np.ndarray, seed: int, confidence: float
) -> Candidate:
    """Measure ``policy`` on all samples of ``engine`` against the full cache's ``full`` ``[sample]``."""
    losses = engine.evaluate(policy)
    differences = 100 * (scorer(engine, policy) - full)
    # The full cache against itself is certain.
    resolution = scorer.resolution(engine) if losses.cache_fraction.min() < 1 else 0.0
    difference = paired_interval(differences, seed, confidence, resolution)
    return Candidate(label, policy, float(losses.cache_fraction.mean()), difference)


def choose(
    engine: Engine, records: Sequence[TrialRecord], max_degradation: float, scorer: Scorer, seed: int
) -> tuple[Candidate | None, list[Candidate]]:
    """The smallest cache that meets the goal on the select split, and all finalists by size.

    Finalists are spread evenly over the trials of the search that no other beats in both quality and memory. Baselines
    are not among them: they have their own contest.
    """
    front = [record for record in records if record.pareto and record.label == "search" and record.metrics[MEMORY] < 1]
    front.sort(key=lambda record: record.metrics[MEMORY])
    places = np.unique(np.linspace(0, len(front) - 1, min(N_FINALISTS, len(front))).round().astype(int))
    full = scorer(engine, Policy.full(engine.n_layers))
    finalists = [
        compare(
            engine,
            f"trial {front[place].number}",
            policy_from(front[place]),
            scorer,
            full,
            seed,
            CHOOSING_CONFIDENCE,
        )
        for place in places
    ]
    good = [candidate for candidate in finalists if candidate.meets(max_degradation)]
    return (min(good, key=lambda c: c.cache_fraction) if good else None), finalists


def best_baseline(engine: Engine, max_degradation: float, scorer: Scorer, seed: int) -> Candidate | None:
    """The smallest cache at which some baseline meets the goal on the select split; None if none does below full.

    Among the baselines is the best single alpha: uniform A2SF with each of several half-lives. Each method's budget is
    searched by bisection over steps of 2 %, which is more than the trials gave it: a tuned policy should beat what an
    engineer could have set by hand.
    """
    full = scorer(engine, Policy.full(engine.n_layers))
    best: Candidate | None = None
    for baseline in (*BASELINES, *SINGLE_ALPHAS):
        low, high = -1, len(BUDGET_STEPS)
        while high - low > 1:
            middle = (low + high) // 2
            share = BUDGET_STEPS[middle]
            policy = policy_of(baseline.params(share), engine.n_layers)
            label = f"{baseline.name} {share:g}"
            found = compare(engine, label, policy, scorer, full, seed, CHOOSING_CONFIDENCE)
            if found.meets(max_degradation):
                high = middle
                if best is None or found.cache_fraction < best.cache_fraction:
                    best = found
            else:
                low = middle
    return best


def cache_bytes(losses: Losses, engine: Engine) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    full = tokens * engine.bytes_per_token
    return int(full.mean()), int((full * losses.cache_fraction).mean())
