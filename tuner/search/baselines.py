"""Known methods: what a tuned policy has to beat. A method is one row here; the search space need not know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from a2sf_core.policy import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.position import Position, Random
from tuner.measuring.bank import HALF_LIVES, SNAPKV_WINDOW
from tuner.search.allocation import as_share, fill
from tuner.search.records import FirstTrial, Params, Value

BASELINE_BUDGETS = (0.1, 0.25, 0.5)
PYRAMID = 20
"""The last layer gets the mean share over this: PyramidKV's beta (arXiv 2406.02069)."""


def uniform(budget: float, n_layers: int) -> list[float]:
    """The same share of the cache for every layer."""
    return [budget] * n_layers


def pyramid(budget: float, n_layers: int) -> list[float]:
    """Shares that fall evenly from the first layer to the last, mean `budget`; none over 1."""
    last = budget / PYRAMID
    return fill(budget, np.linspace(2 * budget - last, last, n_layers).tolist())


@dataclass(frozen=True)
class Baseline:
    """A known method: one rule in all layers, at any budget.

    Attributes:
        recent, sink: as in `LayerPolicy`.
        budgets: shares per layer from the mean share and the number of layers.
    """

    name: str
    rule: ScoreRule
    recent: float | int = 0.0
    sink: int = 0
    budgets: Callable[[float, int], list[float]] = uniform

    def policy(self, budget: float, n_layers: int) -> Policy:
        """The method at `budget`, a share of the full cache."""
        shares = [as_share(share) for share in self.budgets(budget, n_layers)]
        return Policy(tuple(LayerPolicy(self.rule, share, self.recent, self.sink) for share in shares))

    def point(self, budget: float, rules: Sequence[str]) -> Params | None:
        """What would say the same in a search space over `rules`; None if nothing would. Ranges are not looked at."""
        if self.budgets is not uniform or self.rule.name not in rules:
            return None
        common: dict[str, Value] = {"rule": self.rule.name, "budget": budget, "sink": self.sink}
        if isinstance(self.rule, Decay) and self.rule.half_life in HALF_LIVES:
            return common | {"half_life_place": HALF_LIVES.index(self.rule.half_life), "recent": self.recent}
        if self.rule == Window(SNAPKV_WINDOW) and self.recent == SNAPKV_WINDOW:
            return common | {"half_life_place": HALF_LIVES.index(inf), "recent": 0.0}
        return None


FULL = Baseline("full", Decay(inf))
BASELINES = (
    Baseline("h2o", Decay(inf), recent=0.5),
    Baseline("tova", Decay(0.0)),
    Baseline("snapkv", Window(SNAPKV_WINDOW), recent=SNAPKV_WINDOW),
    Baseline("pyramidkv", Window(SNAPKV_WINDOW), recent=SNAPKV_WINDOW, budgets=pyramid),
    Baseline("streaming-llm", Position(), recent=1.0, sink=4),
    Baseline("a2sf-published", Decay(0.5)),
    Baseline("random", Random()),
)
"""Full cache aside, what a tuned policy has to beat. a2sf-published: alpha 0.25, inside the paper's stated optimum of
0.1 to 0.3, no recent window. random is the floor: what it keeps well needs no method."""

SINGLE_ALPHAS = tuple(Baseline(f"a2sf half-life {h:g}", Decay(h)) for h in (2.0, 8.0, 32.0, 128.0, inf))
"""Uniform A2SF with one alpha for all layers, as an engineer would set it by hand; compared when finalists are."""


def baseline_trials(n_layers: int, rules: Sequence[str]) -> list[FirstTrial]:
    """The baselines that every study starts with, each with its policy, and with the point that may say the same."""
    methods = [(FULL, 1.0, FULL.name)]
    methods += [(baseline, share, f"{baseline.name} {share:g}") for baseline in BASELINES for share in BASELINE_BUDGETS]
    trials = []
    for baseline, share, label in methods:
        point, policy = baseline.point(share, rules) or {}, baseline.policy(share, n_layers)
        trials.append(FirstTrial(label, "baseline", baseline.name, point, policy))
    return trials
