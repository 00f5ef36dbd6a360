"""What is searched: the parameters of a policy, by family, with their ranges; known before anything was measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass, field
from functools import cached_property

import numpy as np

from a2sf_core.growth import Growth
from a2sf_core.rules.base import ScoreRule
from tuner.choices import DEFAULT_RULES, LEARNED
from tuner.measuring.bank import HALF_LIVES
from tuner.search.baselines import BASELINES
from tuner.search.records import Params, Value
from tuner.search.rules import bank_for

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


@dataclass(frozen=True)
class Options:
    """One parameter that is a name among `names`."""

    names: tuple[str, ...]


COMMON: dict[str, Range | Options] = {
    "half_life_place": Range(0, len(HALF_LIVES) - 1),
    "budget": Range(0.03, 1.0, log=True),
    "recent": Range(0.0, 1.0),
    "sink": Range(0, 8),
}
"""half_life_place: place in the bank of the mean layer. budget: share of the full cache, mean over layers and heads.
recent: share of a budget for the most recent tokens. sink: first tokens that always stay. Beside them stands `rule`:
what ranks the tokens; some rules have no use for the half-life, or bring recent tokens of their own."""
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
FALLOFF = {"falloff": Range(0.0, 0.8)}
"""How fast the share of a prompt falls with its length: 0 keeps the same share of every prompt, 1 would keep the same
number of tokens."""
_UNLIKE = 1.5
"""Times as long as the short prompts the long ones must be, for that to be searched."""
_SHORT, _LONG = 0.05, 0.95
"""Which prompts those are, so that a single strange one decides nothing: quantiles of the lengths."""
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
        rules: names in `tuner.choices.RULES` to choose from.
        lengths: of the search prompts in tokens; none where all prompts are to keep the same share.
    """

    family: str
    per_head: bool
    n_layers: int
    rules: tuple[str, ...] = field(default=DEFAULT_RULES, kw_only=True)
    lengths: tuple[int, ...] = field(default=(), kw_only=True)

    @cached_property
    def ranges(self) -> dict[str, Range | Options]:
        """Name and range of every searched parameter."""
        extra: dict[str, Range | Options] = {"rule": Options(self.offered)}
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
        if self.lengths_differ:
            extra |= FALLOFF
        return COMMON | extra

    @property
    def fixed(self) -> tuple[str, ...]:
        """The rules that need not be learned."""
        return tuple(name for name in self.rules if name != LEARNED)

    @property
    def offered(self) -> tuple[str, ...]:
        """The rules that policies may have: a learned one is not known before it is learned."""
        return self.fixed

    @property
    def learns(self) -> bool:
        """True if a rule is to be learned."""
        return LEARNED in self.rules

    @cached_property
    def bank(self) -> tuple[ScoreRule, ...]:
        """The rules that an engine must know to measure this space and the baselines."""
        return bank_for(self.offered, (baseline.rule for baseline in BASELINES))

    @property
    def needs_profile(self) -> bool:
        """True if the profile shapes policies of this space."""
        return self.per_head or self.family in PROFILED

    @cached_property
    def lengths_differ(self) -> bool:
        """True if the prompts are so unlike in length that the share they keep may depend on it."""
        short, long = self._short_and_long
        return long >= _UNLIKE * short

    @cached_property
    def _short_and_long(self) -> tuple[int, int]:
        if not self.lengths:
            return 1, 1
        short, long = np.quantile(self.lengths, (_SHORT, _LONG)).round().astype(int).tolist()
        return short, long

    def growth(self, falloff: float) -> Growth | None:
        """How budgets grow with the prompt at `falloff`; None where all prompts keep the same share."""
        falloff = round(falloff, 2)
        return Growth(round(1 - falloff, 2), *self._short_and_long) if falloff and self.lengths_differ else None

    def digest(self) -> str:
        """Identifies the space, so that a study is never resumed with another one."""
        ranges = {name: astuple(r) for name, r in self.ranges.items()}
        text = json.dumps([ranges, self.n_layers, list(map(str, HALF_LIVES)), self.learns])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def complete(self, params: Params) -> dict[str, Value]:
        """A point of this space from that of another one: missing parameters are 0 or the first name, strange ones go,
        all in range."""
        return {name: _within(r, params.get(name)) for name, r in self.ranges.items()}


def _within(r: Range | Options, value: Value | None) -> Value:
    if isinstance(r, Options):
        return str(value) if value in r.names else r.names[0]
    number = min(max(value if isinstance(value, float | int) else 0, r.low), r.high)
    return round(number) if r.whole else float(number)


def _per(kind: str, count: int) -> dict[str, Range]:
    """A weight, a shift of the half-life and one of the recent share for each of so many layers or groups."""
    names = [f"{kind}_{index}" for index in range(count)]
    return {f"{kind_of_shift}{name}": r for kind_of_shift, r in OWN.items() for name in names}
