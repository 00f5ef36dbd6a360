"""What is searched: the parameters of a policy, by family, with their ranges; known before anything was measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from tuner.measuring.bank import HALF_LIVES
from tuner.search.records import Params

N_GROUPS = 4


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


def _per(kind: str, count: int) -> dict[str, Range]:
    """A weight, a shift of the half-life and one of the recent share for each of so many layers or groups."""
    names = [f"{kind}_{index}" for index in range(count)]
    return {f"{kind_of_shift}{name}": r for kind_of_shift, r in OWN.items() for name in names}
