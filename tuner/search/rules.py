"""The score rules that a search may choose from, and what the engine must know to measure them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from a2sf_core.layer_policy import Budget, LayerPolicy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.norms import KeyNorm, ValueWeighted
from tuner.measuring.bank import BANK, HALF_LIVES, SNAPKV_WINDOW
from tuner.search.profile import Recency

SEARCHED: dict[str, Callable[[Recency, Budget, int], LayerPolicy]] = {
    "decay": lambda r, budget, sink: LayerPolicy(Decay(r.half_life), budget, r.recent, sink),
    "window": lambda _, budget, sink: LayerPolicy(Window(SNAPKV_WINDOW), budget, SNAPKV_WINDOW, sink),
    "value-weighted": lambda r, budget, sink: LayerPolicy(ValueWeighted(Decay(r.half_life)), budget, r.recent, sink),
    "key-norm": lambda r, budget, sink: LayerPolicy(KeyNorm(), budget, r.recent, sink),
}
"""What a layer keeps under each rule, from half-life and recent share, budget, and sink; `tuner.choices.RULES` has the
same names. A window brings its own recent tokens: the queries that vote stay."""


def bank_for(names: Sequence[str], others: Iterable[ScoreRule]) -> tuple[ScoreRule, ...]:
    """The bank, and whatever the rules of these names need beyond it, and `others`."""
    searched = (SEARCHED[name](Recency(half_life, 0.0), 0.5, 0).rule for name in names for half_life in HALF_LIVES)
    return tuple(dict.fromkeys((*BANK, *searched, *others)))
