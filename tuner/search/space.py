"""The search space: a few numbers that describe a policy for any number of layers and KV heads.

What differs between layers and heads is a sum of log-weights, by one of several families: over depth (a cosine basis),
as the sensitivity profile says, by groups of heads with like profiles, or free per layer. The budget is dealt out in
proportion, so one shape fits every budget. Which half-life and how many recent tokens suit a layer depends on what it
keeps: the profile knows, and a family may shift both. Half-lives are places in the engine's bank, so that a step is
about a factor of 1.4 whether memory is short or long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from a2sf_core.growth import Growth
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from a2sf_core.rules.learned import Learned
from tuner.choices import BY_PROMPT, LEARNED
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.losses import share_of_all
from tuner.search.allocation import LEAST_SHARE, as_share, fill
from tuner.search.baselines import baseline_trials
from tuner.search.dimensions import N_GROUPS, Dimensions
from tuner.search.profile import Profile, Recency
from tuner.search.reconstruction import HALF_LIFE, RECENT, SINK
from tuner.search.records import FirstTrial, Params, Value
from tuner.search.rules import SEARCHED

GROUPING_BUDGET = 0.25
SEEDS, SEEDS_OF_OTHERS = (0.05, 0.08, 0.12, 0.18, 0.27, 0.4), (0.12, 0.27)
"""Budgets of the profile's own policies that every study starts with: under the first of its rules and learned ones,
and under the others."""
FIRST_FALLOFF = 0.3
"""Of the profile's own policies, where it is searched: docs/heads.md says what it is worth."""
SHAPES = ("slope", "bump", "wave", "layer_", "head_", "group_")
"""How the names of parameters begin that tell the budgets of layers and heads apart."""


@dataclass(frozen=True)
class Space(Dimensions):
    """What the parameters mean for one model: policies from points.

    Args:
        profile: of the model on this task; None only where `needs_profile` is False, or before it is measured.
        learned: the learned rule of every layer, or none.
    """

    profile: Profile | None = None
    learned: tuple[Learned, ...] = ()

    @classmethod
    def of(cls, dimensions: Dimensions, profile: Profile | None, learned: tuple[Learned, ...] = ()) -> Space:
        """The space of these dimensions, shaped by `profile` if they need one, with `learned` among its rules."""
        d = dimensions
        return cls(d.family, d.per_head, d.n_layers, profile, learned, rules=d.rules, lengths=d.lengths)

    @property
    def offered(self) -> tuple[str, ...]:
        """The rules that policies may have."""
        if not self.learned:
            return self.fixed
        return (*self.fixed, LEARNED, *([BY_PROMPT] if all(rule.compares for rule in self.learned) else []))

    def policy(self, params: Params) -> Policy:
        """The policy that `params` describe; one that is missing counts as 0."""
        numbers = {name: float(value) for name, value in params.items() if not isinstance(value, str)}
        growth = self.growth(numbers.get("falloff", 0))
        shares = self._shares(numbers, growth)  # [layer, kv_head]
        recencies = self._recencies(shares.mean(-1), numbers)
        name, sink = str(params["rule"]), int(numbers["sink"])
        layers = []
        for index, (row, recency) in enumerate(zip(shares, recencies, strict=True)):
            heads = tuple(map(as_share, row))
            budget = heads if len(set(heads)) > 1 else heads[0]
            if name == BY_PROMPT:
                budget = heads * (len(self.learned[index].powers) // len(heads))
            if name in (LEARNED, BY_PROMPT):
                layers.append(LayerPolicy(self.learned[index], budget, recency.recent, sink))
            else:
                layers.append(SEARCHED[name](recency, budget, sink))
        return Policy(tuple(replace(layer, growth=growth) for layer in layers), by_prompt=name == BY_PROMPT)

    def flattened(self, params: Params, share: float) -> dict[str, Value]:
        """`params` with only `share` of what tells the budgets of layers and heads apart; 1 changes nothing."""
        return {name: float(value) * share if name.startswith(SHAPES) else value for name, value in params.items()}

    def enqueued(self) -> list[FirstTrial]:
        """The trials that every study starts with: what the profile says, then baselines.

        In this order, because the first are the better ones: a study that is stopped early has them.
        """
        first: list[FirstTrial] = []
        if self.needs_profile:
            for place, rule in enumerate(self.offered):
                for budget in SEEDS_OF_OTHERS if place and rule in self.fixed else SEEDS:
                    label = f"seed profile, {rule} {budget:g}"
                    first.append(FirstTrial(label, "seed", "profile", self.seed(budget) | {"rule": rule}))
            if self.lengths_differ:
                for budget in SEEDS_OF_OTHERS:
                    point = self.seed(budget) | {"rule": self.offered[-1], "falloff": 0.0}
                    label = f"seed profile, {self.offered[-1]} {budget:g}, the same share of all"
                    first.append(FirstTrial(label, "seed", "profile", point))
        placed = [self._placed(trial) for trial in (*first, *baseline_trials(self.n_layers, self.offered))]
        return sorted(placed, key=lambda trial: trial.policy is not None)

    def _placed(self, trial: FirstTrial) -> FirstTrial:
        """A trial as a point of this space, or by its policy alone where the space has no point for that."""
        point = self.complete(trial.params)
        if trial.params and trial.policy in (None, self.policy(point)):
            return replace(trial, params=point, policy=None)
        return replace(trial, params={})

    def seed(self, budget: float) -> dict[str, Value]:
        """The profile's own policy at `budget`: its budgets, and the best recency of each layer.

        Without a profile all layers alike, with a usual half-life.
        """
        if not self.needs_profile:
            place = HALF_LIVES.index(HALF_LIFE)
            return {"half_life_place": place, "budget": budget, "recent": RECENT, "sink": SINK, "rule": self.fixed[0]}
        recencies = self._profile.recencies(self._profile.budgets(budget).mean(-1))
        return {
            "half_life_place": round(float(np.mean([HALF_LIVES.index(each.half_life) for each in recencies]))),
            "budget": budget,
            "recent": float(np.mean([each.recent for each in recencies])),
            "sink": self._profile.sink,
            "rule": self.fixed[0],
            "rule_profile": 1.0,
            "layer_profile": 1.0,
            "head_profile": 1.0,
            "falloff": FIRST_FALLOFF,
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

    def _shares(self, params: Mapping[str, float], growth: Growth | None) -> np.ndarray:
        """Budget shares `[layer, kv_head]` of the longest prompts, one column where layers are cut whole.

        The search prompts keep `budget` of all their caches together.
        """
        if growth is None:
            return _filled(params["budget"], self._weights(params, params["budget"]))
        times = np.array([growth.times(n) for n in self.lengths])  # [prompt]
        weights = self._weights(params, params["budget"] / share_of_all(times, self.lengths))

        def over(budget: float) -> float:
            kept = np.minimum(1, _filled(budget, weights).ravel() * times[:, None]).mean(1)  # [prompt]
            return share_of_all(kept, self.lengths) - params["budget"]

        return _filled(brentq(over, LEAST_SHARE, 1.0, xtol=1e-4), weights)

    def _weights(self, params: Mapping[str, float], budget: float) -> np.ndarray:
        """What about `budget` is dealt out by, `[layer, kv_head]`, one column where layers are cut whole."""
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
        return np.exp(weights)

    def _recencies(self, shares: np.ndarray, params: Mapping[str, float]) -> list[Recency]:
        """Half-life and recent share of every layer, for the layers' shares of the cache `[layer]`."""
        wanted = self.profile.recencies(shares) if self.profile and params.get("rule_profile", 0) else None
        found = []
        for layer in range(self.n_layers):
            tilt = params.get("half_life_slope", 0) * (self._depth(layer) - 0.5)
            place, recent = params["half_life_place"] + tilt, params["recent"]
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


def _filled(budget: float, weights: np.ndarray) -> np.ndarray:
    """Shares of mean `budget` in proportion to `weights`, none over 1; both of one shape."""
    return np.array(fill(budget, weights.ravel().tolist())).reshape(weights.shape)


def _group(need: np.ndarray) -> np.ndarray:
    """Group of every entry, at most `N_GROUPS`, in the order of their need; any shape."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(need.round(6)))
    found = KMeans(min(N_GROUPS, distinct), n_init=10, random_state=0).fit(need.reshape(-1, 1))
    by_need = np.argsort(np.argsort(found.cluster_centers_[:, 0]))
    grouped: np.ndarray = by_need[found.labels_].reshape(need.shape)
    return grouped
