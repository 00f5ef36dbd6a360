"""A made-up study for the tests of its pictures."""

from __future__ import annotations

import math
import random

from a2sf_core.policy import Policy
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval
from tuner.search.records import TrialRecord


def candidate(label: str, kept: float, mean: float, low: float) -> Candidate:
    return Candidate(label, Policy.full(2), kept, Interval(mean, low, mean + 0.2))


def make_trials() -> list[TrialRecord]:
    draw = random.Random(0)
    points = [(name, kept, 60 * math.exp(-rate * kept))
              for name, rate in (("h2o", 8), ("streaming-llm", 3)) for kept in (0.1, 0.3, 0.6)]  # fmt: skip
    points += [("full", 1.0, 0.0)]
    for _ in range(60):
        kept = draw.uniform(0.05, 0.9)
        points.append(("", kept, 40 * math.exp(-12 * kept) + draw.uniform(-0.2, 3)))
    trials = [
        TrialRecord(
            n, "complete", f"{method} {kept}" if method else "search", {"budget": kept},
            {"cache_fraction": kept, "lost": lost}, "{}", kind="baseline" if method else "search", method=method,
        )
        for n, (method, kept, lost) in enumerate(points)
    ]  # fmt: skip
    return [*trials, TrialRecord(len(trials), "failed", "search", {}, {}, "", error="out of memory")]


TUNED = candidate("trial 17", 0.231, -0.42, -0.91)
HAND = candidate("h2o 0.6", 0.6, -0.2, -0.6)
