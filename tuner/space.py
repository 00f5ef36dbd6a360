"""The search space: a few numbers that describe a policy for any number of layers.

Layers are told apart by a cosine basis over depth (slope, bump, wave): three numbers shape the budgets, one the
half-lives, whether the model has 4 layers or 80. Half-lives are places in the engine's bank, so that a step is about a
factor of 1.4 whether memory is short or long.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from a2sf_core.policy import LayerPolicy, Policy
from tuner.engine import HALF_LIVES, SNAPKV_WINDOW

Params = Mapping[str, float | int]


@dataclass(frozen=True)
class Range:
    """One parameter: ``low`` to ``high``, whole numbers if both are ints; ``log`` searches it on a log scale."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


SPACE: dict[str, Range] = {
    "half_life_place": Range(0, len(HALF_LIVES) - 1),
    "half_life_slope": Range(-8, 8),
    "budget": Range(0.03, 1.0, log=True),
    "slope": Range(-2.5, 2.5),
    "bump": Range(-2.5, 2.5),
    "wave": Range(-2.5, 2.5),
    "recent": Range(0.0, 1.0),
    "sink": Range(0, 8),
    "window": Range(0, 1),
}
"""Name and range of every searched parameter.

half_life_place: place in the bank of the mean layer. half_life_slope: places from the first to the last layer.
budget: share of the full cache, mean over layers. slope, bump, wave: log-weights of the layers' shares (cosine basis).
recent: share of a layer's budget for the most recent tokens. sink: first tokens that always stay.
window: 1 lets the last queries vote and stay, as in SnapKV; half-life and recent are moot then.
"""

BASELINE_BUDGETS = (0.2, 0.4, 0.6, 0.8)


def space_hash() -> str:
    """Identifies the space, so that a study is never resumed with another one."""
    text = json.dumps(
        {name: [r.low, r.high, r.log] for name, r in SPACE.items()} | {"bank": list(map(str, HALF_LIVES))}
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def layer_budgets(budget: float, weights: list[float]) -> list[float]:
    """Shares per layer in proportion to ``weights``, mean ``budget``, none over 1: what is over goes to the others."""
    n = len(weights)
    shares = [0.0] * n
    free = set(range(n))
    left = budget * n
    while free:
        total = sum(weights[i] for i in free)
        full = {i for i in free if left * weights[i] / total >= 1}
        if not full:
            for i in free:
                shares[i] = left * weights[i] / total
            break
        for i in full:
            shares[i] = 1.0
        free -= full
        left -= len(full)
    return shares


def policy_of(params: Params, n_layers: int) -> Policy:
    """The policy that ``params`` describe for a model of ``n_layers`` layers."""
    depth = [(i + 0.5) / n_layers for i in range(n_layers)]
    weights = [
        math.exp(
            sum(params[name] * math.cos(math.pi * (k + 1) * d) for k, name in enumerate(("slope", "bump", "wave")))
        )
        for d in depth
    ]
    budgets = layer_budgets(float(params["budget"]), weights)
    layers = []
    for d, budget in zip(depth, budgets, strict=True):
        place = round(params["half_life_place"] + params["half_life_slope"] * (d - 0.5))
        half_life = HALF_LIVES[min(max(place, 0), len(HALF_LIVES) - 1)]
        # A share of exactly 1 keeps everything whatever the scores say.
        share = min(1.0, max(round(budget, 4), 0.001))
        recent, sink = round(float(params["recent"]), 4), int(params["sink"])
        layers.append(
            LayerPolicy(math.inf, share, SNAPKV_WINDOW, sink, window=SNAPKV_WINDOW)
            if params["window"]
            else LayerPolicy(half_life, share, recent, sink)
        )
    return Policy(tuple(layers))


@dataclass(frozen=True)
class Baseline:
    """A known method: a uniform point of the space at any budget."""

    name: str
    half_life: float
    recent: float = 0.0
    sink: int = 0
    window: int = 0

    def params(self, budget: float) -> dict[str, float | int]:
        """The method's point of the space at ``budget`` (share of the full cache)."""
        return {
            "half_life_place": HALF_LIVES.index(self.half_life),
            "half_life_slope": 0,
            "budget": budget,
            "slope": 0.0,
            "bump": 0.0,
            "wave": 0.0,
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


def enqueued() -> dict[str, dict[str, float | int]]:
    """Label and parameters of the trials that every study starts with."""
    points = {FULL.name: FULL.params(1.0)}
    points |= {f"{b.name} {share:g}": b.params(share) for b in BASELINES for share in BASELINE_BUDGETS}
    return points
