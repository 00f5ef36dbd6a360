"""The search space: a few numbers that describe a policy for any number of layers and KV heads.

What differs between layers and heads is a sum of log-weights, by one of several families: over depth (a cosine basis),
as the sensitivity profile says, by groups of heads with like profiles, or free per layer. The budget is dealt out in
proportion, so one shape fits every budget. Which half-life and how many recent tokens suit a layer depends on what it
keeps: the profile knows, and a family may shift both. Half-lives are places in the engine's bank, so that a step is
about a factor of 1.4 whether memory is short or long.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from a2sf_core.policy import LayerPolicy, Policy
from tuner.measuring.bank import HALF_LIVES, SNAPKV_WINDOW
from tuner.search.allocation import LEAST_SHARE, fill
from tuner.search.baselines import baseline_trials
from tuner.search.profile import SINK, Profile, Recency
from tuner.search.records import FirstTrial, Params

N_GROUPS = 4
GROUPING_BUDGET = 0.25
SEEDS = {"decay": (0.05, 0.08, 0.12, 0.18, 0.27, 0.4), "window": (0.12, 0.27)}
"""Budgets of the profile's own policies that every study starts with, by how tokens are scored."""


@dataclass(frozen=True)
class Range:
    """One parameter: `low` to `high`, whole numbers if both are ints; `log` searches it on a log scale."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """True for a parameter of whole numbers."""
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
queries vote and stay, as in SnapKV; half-lives and recent are moot then."""

WEIGHT, TILTED = Range(-2.5, 2.5), Range(-8, 8)
"""Log-weight over the depth, and places in the bank from the first layer to the last."""
OWN = {"": Range(-1.0, 1.0), "half_life_": Range(-4, 4), "recent_": Range(-0.25, 0.25)}
"""What is added to a group's or layer's log-weight, place in the bank and recent share. Narrow, as the profile has been
there before: wider ranges found less in a hundred trials."""
TILT = {"half_life_slope": TILTED, "slope": WEIGHT}
PROFILE = {"rule_profile": Range(0.0, 1.0), "layer_profile": Range(0.0, 1.5)}
"""How much of the profile counts, for the rules of the layers and for the deviations of their budgets: 0 is none of it,
1 is the profile itself."""
HEADS = {"head_profile": Range(0.0, 1.5)}
SHAPES = ("slope", "bump", "wave", "layer_", "head_", "group_")
"""How the names of parameters begin that tell the budgets of layers and heads apart."""
PROFILED = ("profile", "groups", "free")
"""Families that the profile shapes."""


@dataclass(frozen=True)
class Dimensions:
    """What is searched: names and ranges, known before anything was measured.

    Args:
        family: "uniform" (all layers alike), "slope" (budgets and half-lives tilt over the depth), "bump" (budgets also
            bend), "profile" (shaped by the sensitivity profile), "groups" (the profile, and a weight per group of
            heads with like profiles, a half-life and a recent share per group of such layers), "free" (the profile,
            and these three per layer).
        per_head: let KV heads of a layer have budgets of their own.
        n_layers: decoder layers of the model.
    """

    family: str
    per_head: bool
    n_layers: int

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """Name and range of every searched parameter."""
        extra: dict[str, Range] = {}
        if self.family in ("slope", "bump"):
            extra |= TILT
        if self.family == "bump":
            extra |= {"bump": WEIGHT, "wave": WEIGHT}
        if self.family in PROFILED:
            extra |= PROFILE
        if self.family == "groups":
            extra |= _per("group", N_GROUPS)
        if self.family == "free":
            extra |= _per("layer", self.n_layers)
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

    def complete(self, params: Params) -> dict[str, float | int]:
        """A point of this space from that of another one: missing parameters are 0, strange ones go, all in range."""
        point: dict[str, float | int] = {}
        for name, r in self.ranges.items():
            value = min(max(params.get(name, 0), r.low), r.high)
            point[name] = round(value) if r.whole else float(value)
        return point


@dataclass(frozen=True)
class Space(Dimensions):
    """What the parameters mean for one model: policies from points.

    Args:
        profile: of the model on this task; None only where `needs_profile` is False, or before it is measured.
    """

    profile: Profile | None = None

    @classmethod
    def of(cls, dimensions: Dimensions, profile: Profile | None) -> Space:
        """The space of these dimensions, shaped by `profile` if they need one."""
        return cls(dimensions.family, dimensions.per_head, dimensions.n_layers, profile)

    def policy(self, params: Params) -> Policy:
        """The policy that `params` describe; one that is missing counts as 0."""
        shares = self._shares(params)  # [layer, kv_head]
        recencies = self._recencies(shares.mean(-1), params)
        sink = int(params["sink"])
        layers = []
        for row, recency in zip(shares, recencies, strict=True):
            # A share of exactly 1 keeps everything whatever the scores say.
            heads = tuple(min(1.0, max(round(float(share), 4), LEAST_SHARE)) for share in row)
            budget = heads if len(set(heads)) > 1 else heads[0]
            layers.append(
                LayerPolicy(math.inf, budget, SNAPKV_WINDOW, sink, window=SNAPKV_WINDOW)
                if params["window"]
                else LayerPolicy(recency.half_life, budget, recency.recent, sink)
            )
        return Policy(tuple(layers))

    def flattened(self, params: Params, share: float) -> dict[str, float | int]:
        """`params` with only `share` of what tells the budgets of layers and heads apart; 1 changes nothing."""
        return {name: value * share if name.startswith(SHAPES) else value for name, value in params.items()}

    def enqueued(self) -> list[FirstTrial]:
        """The trials that every study starts with: what the profile says, then baselines.

        In this order, because the first are the better ones: a study that is stopped early has them.
        """
        first: list[FirstTrial] = []
        if self.needs_profile:
            for window, (name, budgets) in enumerate(SEEDS.items()):
                for budget in budgets:
                    label = f"seed profile, {name} {budget:g}"
                    first.append(FirstTrial(label, "seed", "profile", self.seed(budget) | {"window": window}))
        return [replace(trial, params=self.complete(trial.params)) for trial in (*first, *baseline_trials())]

    def seed(self, budget: float) -> dict[str, float | int]:
        """The profile's own policy at `budget`: marginal-utility budgets, and the best recency of each layer."""
        recencies = self._profile.recencies(self._profile.budgets(budget).mean(-1))
        return {
            "half_life_place": round(float(np.mean([HALF_LIVES.index(each.half_life) for each in recencies]))),
            "budget": budget,
            "recent": float(np.mean([each.recent for each in recencies])),
            "sink": SINK,
            "window": 0,
            "rule_profile": 1.0,
            "layer_profile": 1.0,
            "head_profile": 1.0,
        }

    @property
    def _profile(self) -> Profile:
        if self.profile is None:
            raise ValueError(
                f"the family {self.family!r} is shaped by a profile; measure one before policies are asked"
            )
        return self.profile

    @cached_property
    def groups(self) -> np.ndarray:
        """`[layer, kv_head]`: group of every head, 0 for those that need least; like profiles share a group."""
        return _group(np.log(self._profile.budgets(GROUPING_BUDGET)))

    @cached_property
    def layer_groups(self) -> np.ndarray:
        """`[layer]`: the same for layers as a whole."""
        return _group(np.log(self._profile.budgets(GROUPING_BUDGET).mean(-1)))

    def _shares(self, params: Params) -> np.ndarray:
        """Budget shares `[layer, kv_head]`, one column where layers are cut whole."""
        budget = float(params["budget"])
        depth = np.array([self._depth(layer) for layer in range(self.n_layers)])
        by_layer = sum(
            params.get(name, 0) * np.cos(math.pi * (k + 1) * depth) for k, name in enumerate(("slope", "bump", "wave"))
        )
        by_layer = by_layer + np.array([params.get(f"layer_{layer}", 0) for layer in range(self.n_layers)])
        weights = np.asarray(by_layer, dtype=float)[:, None]  # [layer, 1]
        if self.needs_profile:
            wanted = self._profile.budgets(budget)  # [layer, kv_head]
            of_layer = wanted.mean(-1, keepdims=True)  # [layer, 1]
            weights = weights + params.get("layer_profile", 0) * np.log(of_layer)
            if self.per_head:
                weights = weights + params.get("head_profile", 0) * np.log(wanted / of_layer)
            if self.family == "groups":
                by_group = np.array([params.get(f"group_{group}", 0) for group in range(N_GROUPS)])
                grouped = by_group[self.groups]  # [layer, kv_head]
                weights = weights + (grouped if self.per_head else grouped.mean(-1, keepdims=True))
        return np.array(fill(budget, np.exp(weights).ravel().tolist())).reshape(weights.shape)

    def _recencies(self, shares: np.ndarray, params: Params) -> list[Recency]:
        """Half-life and recent share of every layer, for the layers' shares of the cache `[layer]`."""
        wanted = self.profile.recencies(shares) if self.profile and params.get("rule_profile", 0) else None
        found = []
        for layer in range(self.n_layers):
            tilt = params.get("half_life_slope", 0) * (self._depth(layer) - 0.5)
            place, recent = float(params["half_life_place"]) + tilt, float(params["recent"])
            if wanted:
                place += params["rule_profile"] * (HALF_LIVES.index(wanted[layer].half_life) - place)
                recent += params["rule_profile"] * (wanted[layer].recent - recent)
            own = f"group_{self.layer_groups[layer]}" if self.family == "groups" else f"layer_{layer}"
            place += params.get(f"half_life_{own}", 0)
            recent += params.get(f"recent_{own}", 0)
            half_life = HALF_LIVES[min(max(round(place), 0), len(HALF_LIVES) - 1)]
            found.append(Recency(half_life, round(min(max(recent, 0), 1), 4)))
        return found

    def _depth(self, layer: int) -> float:
        return (layer + 0.5) / self.n_layers


def _per(kind: str, count: int) -> dict[str, Range]:
    """A weight, a shift of the half-life and one of the recent share for each of so many layers or groups."""
    names = [f"{kind}_{index}" for index in range(count)]
    return {f"{kind_of_shift}{name}": r for kind_of_shift, r in OWN.items() for name in names}


def _group(need: np.ndarray) -> np.ndarray:
    """Group of every entry, at most `N_GROUPS`, in the order of their need; any shape."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(need.round(6)))
    found = KMeans(min(N_GROUPS, distinct), n_init=10, random_state=0).fit(need.reshape(-1, 1))
    by_need = np.argsort(np.argsort(found.cluster_centers_[:, 0]))
    grouped: np.ndarray = by_need[found.labels_].reshape(need.shape)
    return grouped
