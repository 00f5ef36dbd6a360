"""Known methods, as uniform points of the search space: what a tuned policy has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuner.measuring.bank import HALF_LIVES
from tuner.search.records import FirstTrial, Params

BASELINE_BUDGETS = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Baseline:
    """A known method: the same rule in all layers, at any budget."""

    name: str
    half_life: float
    recent: float = 0.0
    sink: int = 0
    window: int = 0

    def params(self, budget: float) -> Params:
        """The method at `budget` (share of the full cache); what shapes the layers is left out, so it is 0."""
        return {
            "half_life_place": HALF_LIVES.index(self.half_life),
            "budget": budget,
            "recent": self.recent,
            "sink": self.sink,
            "window": self.window,
        }


FULL = Baseline("full", math.inf)
BASELINES = (
    Baseline("h2o", math.inf, recent=0.5),
    Baseline("tova", 0.0),
    Baseline("snapkv", math.inf, window=1),
    Baseline("streaming-llm", math.inf, recent=1.0, sink=4),
    Baseline("a2sf-published", 0.5),
)
"""Full cache aside, what a tuned policy has to beat. a2sf-published: alpha 0.25, inside the paper's stated optimum of
0.1 to 0.3, no recent window. StreamingLLM keeps by position alone, so its half-life is moot."""

SINGLE_ALPHAS = tuple(Baseline(f"a2sf half-life {h:g}", h) for h in (2.0, 8.0, 32.0, 128.0, math.inf))
"""Uniform A2SF with one alpha for all layers, as an engineer would set it by hand; compared when finalists are."""


def baseline_trials() -> list[FirstTrial]:
    """The baselines that every study starts with."""
    full = FirstTrial(FULL.name, "baseline", FULL.name, FULL.params(1.0))
    methods = [(baseline, share) for baseline in BASELINES for share in BASELINE_BUDGETS]
    return [full, *(FirstTrial(f"{b.name} {share:g}", "baseline", b.name, b.params(share)) for b, share in methods)]
