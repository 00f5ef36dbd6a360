"""The search space: a few numbers that describe a policy for any number of layers and KV heads.

What differs between layers and heads is a sum of log-weights, by one of several families: over depth (a cosine basis),
as the sensitivity profile says, by groups of heads with like profiles, or free per layer. The budget is dealt out in
proportion, so one shape fits every budget. Half-lives are places in the engine's bank, so that a step is about a factor
of 1.4 whether memory is short or long.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from a2sf_core.policy import LayerPolicy, Policy
from tuner.allocation import fill
from tuner.baselines import baseline_points
from tuner.block import HALF_LIVES, SNAPKV_WINDOW
from tuner.profile import RECENT, SINK, Profile
from tuner.records import SEED, Params

N_GROUPS = 4
GROUPING_BUDGET = 0.25
SEED_BUDGETS = (0.08, 0.12, 0.18, 0.27, 0.4)


@dataclass(frozen=True)
class Range:
    """One parameter: ``low`` to ``high``, whole numbers if both are ints; ``log`` searches it on a log scale."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


COMMON: dict[str, Range] = {
    "half_life_place": Range(0, len(HALF_LIVES) - 1),
    "budget": Range(0.03, 1.0, log=True),
    "recent": Range(0.0, 1.0),
    "sink": Range(0, 8),
    "window": Range(0, 1),
}
"""half_life_place: place in the bank of the mean layer. budget: share of the full cache, mean over layers and heads.
recent: share of a budget for the most recent tokens. sink: first tokens that always stay. window: 1 lets the last
queries vote and stay, as in SnapKV; half-life and recent are moot then."""

WEIGHT = Range(-2.5, 2.5)
SLOPE = {"half_life_slope": Range(-8, 8), "slope": WEIGHT}
PROFILE = {"half_life_profile": Range(0.0, 1.5), "layer_profile": Range(0.0, 1.5)}
"""How much of the profile's deviations counts: 0 is none of it, 1 is the profile itself."""
HEADS = {"head_profile": Range(0.0, 1.5)}
PROFILED = ("profile", "groups", "free")
"""Families that the profile shapes."""


@dataclass(frozen=True)
class Space:
    """Parameters and what they mean, for one model.

    Args:
        family: "uniform" (all layers alike), "slope" (budgets and half-lives tilt over the depth), "bump" (budgets also
            bend), "profile" (shaped by the sensitivity profile), "groups" (the profile, and a weight per group of
            heads with like profiles), "free" (the profile, and a weight per layer).
        per_head: let KV heads of a layer have budgets of their own.
        n_layers: decoder layers of the model.
        profile: of the model on this task; not needed by the first three families when layers are cut whole.
    """

    family: str
    per_head: bool
    n_layers: int
    profile: Profile | None = None

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """Name and range of every searched parameter."""
        extra: dict[str, Range] = {}
        if self.family in ("slope", "bump"):
            extra |= SLOPE
        if self.family == "bump":
            extra |= {"bump": WEIGHT, "wave": WEIGHT}
        if self.family in PROFILED:
            extra |= PROFILE
        if self.family == "groups":
            extra |= {f"group_{group}": WEIGHT for group in range(N_GROUPS)}
        if self.family == "free":
            extra |= {f"layer_{layer}": WEIGHT for layer in range(self.n_layers)}
        if self.per_head:
            extra |= HEADS
        return COMMON | extra

    @property
    def needs_profile(self) -> bool:
        """True if the profile shapes policies of this space."""
        return self.per_head or self.family in PROFILED

    def digest(self) -> str:
        """Identifies the space, so that a study is never resumed with another one."""
        ranges = {name: [r.low, r.high, r.log] for name, r in self.ranges.items()}
        text = json.dumps([ranges, self.n_layers, list(map(str, HALF_LIVES))])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def policy(self, params: Params) -> Policy:
        """The policy that ``params`` describe; one that is missing counts as 0."""
        shares = self._shares(params)  # [layer, kv_head]
        recent, sink = round(float(params["recent"]), 4), int(params["sink"])
        layers = []
        for layer, row in enumerate(shares):
            # A share of exactly 1 keeps everything whatever the scores say.
            heads = tuple(min(1.0, max(round(float(share), 4), 0.001)) for share in row)
            budget = heads if len(set(heads)) > 1 else heads[0]
            layers.append(
                LayerPolicy(math.inf, budget, SNAPKV_WINDOW, sink, window=SNAPKV_WINDOW)
                if params["window"]
                else LayerPolicy(self._half_life(layer, params), budget, recent, sink)
            )
        return Policy(tuple(layers))

    def complete(self, params: Params) -> dict[str, float | int]:
        """A point of this space from that of another one: missing parameters are 0, strange ones go, all in range."""
        point: dict[str, float | int] = {}
        for name, r in self.ranges.items():
            value = min(max(params.get(name, 0), r.low), r.high)
            point[name] = round(value) if r.whole else float(value)
        return point

    def flattened(self, params: Params, share: float) -> dict[str, float | int]:
        """``params`` with only ``share`` of what tells layers and heads apart: 1 changes nothing, 0 is uniform."""
        return {name: value if name in COMMON else value * share for name, value in params.items()}

    def enqueued(self) -> dict[str, dict[str, float | int]]:
        """Label and parameters of the trials that every study starts with: baselines, then what the profile says."""
        points = baseline_points()
        if self.needs_profile:
            for window, name in enumerate(("decay", "window")):
                points |= {f"{SEED} profile, {name} {b:g}": self.seed(b) | {"window": window} for b in SEED_BUDGETS}
        return {label: self.complete(params) for label, params in points.items()}

    def seed(self, budget: float) -> dict[str, float | int]:
        """The profile's own policy at ``budget``: marginal-utility budgets, each layer's best half-life."""
        return {
            "half_life_place": round(float(np.mean(self._profile_places))),
            "budget": budget,
            "recent": RECENT,
            "sink": SINK,
            "window": 0,
            "half_life_profile": 1.0,
            "layer_profile": 1.0,
            "head_profile": 1.0,
        }

    @cached_property
    def groups(self) -> np.ndarray:
        """``[layer, kv_head]``: group of every head, 0 for those that need least; like profiles share a group."""
        from sklearn.cluster import KMeans

        assert self.profile is not None, "only a space that needs a profile has groups"
        need = np.log(self.profile.budgets(GROUPING_BUDGET))  # [layer, kv_head]
        distinct = len(np.unique(need.round(6)))
        found = KMeans(min(N_GROUPS, distinct), n_init=10, random_state=0).fit(need.reshape(-1, 1))
        by_need = np.argsort(np.argsort(found.cluster_centers_[:, 0]))
        grouped: np.ndarray = by_need[found.labels_].reshape(need.shape)
        return grouped

    def _shares(self, params: Params) -> np.ndarray:
        """Budget shares ``[layer, kv_head]``, one column where layers are cut whole."""
        budget = float(params["budget"])
        depth = np.array([self._depth(layer) for layer in range(self.n_layers)])
        by_layer = sum(
            params.get(name, 0) * np.cos(math.pi * (k + 1) * depth) for k, name in enumerate(("slope", "bump", "wave"))
        )
        by_layer = by_layer + np.array([params.get(f"layer_{layer}", 0) for layer in range(self.n_layers)])
        weights = np.asarray(by_layer, dtype=float)[:, None]  # [layer, 1]
        if self.needs_profile:
            assert self.profile is not None
            wanted = self.profile.budgets(budget)  # [layer, kv_head]
            of_layer = wanted.mean(-1, keepdims=True)  # [layer, 1]
            weights = weights + params.get("layer_profile", 0) * np.log(of_layer)
            if self.per_head:
                weights = weights + params.get("head_profile", 0) * np.log(wanted / of_layer)
            if self.family == "groups":
                by_group = np.array([params.get(f"group_{group}", 0) for group in range(N_GROUPS)])
                grouped = by_group[self.groups]  # [layer, kv_head]
                weights = weights + (grouped if self.per_head else grouped.mean(-1, keepdims=True))
        return np.array(fill(budget, np.exp(weights).ravel().tolist())).reshape(weights.shape)

    def _half_life(self, layer: int, params: Params) -> float:
        place = params["half_life_place"] + params.get("half_life_slope", 0) * (self._depth(layer) - 0.5)
        if self.profile is not None and params.get("half_life_profile", 0):
            places = self._profile_places
            place += params["half_life_profile"] * (places[layer] - float(np.mean(places)))
        return HALF_LIVES[min(max(round(place), 0), len(HALF_LIVES) - 1)]

    @cached_property
    def _profile_places(self) -> list[int]:
        """Places in the bank of the half-lives that the profile finds best, per layer."""
        assert self.profile is not None, "only a space that needs a profile has such places"
        return [HALF_LIVES.index(half_life) for half_life in self.profile.best_half_lives]

    def _depth(self, layer: int) -> float:
        return (layer + 0.5) / self.n_layers
