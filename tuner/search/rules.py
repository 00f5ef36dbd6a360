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
    "window": lambda r, budget, sink: LayerPolicy(Window(SNAPKV_WINDOW), budget, _kept_of_window(r, budget), sink),
    "value-weighted": lambda r, budget, sink: LayerPolicy(ValueWeighted(Decay(r.half_life)), budget, r.recent, sink),
    "key-norm": lambda r, budget, sink: LayerPolicy(KeyNorm(), budget, r.recent, sink),
}
"""What a layer keeps under each rule, from half-life and recent share, budget, and sink; `tuner.choices.RULES` has the
same names. A window brings its own recent tokens: the queries that vote stay."""


def _kept_of_window(recency: Recency, budget: Budget) -> float | int:
    """All queries that vote; where heads have budgets of their own a share of it, or they would fill the small ones."""
    return recency.recent if isinstance(budget, tuple) else SNAPKV_WINDOW


def bank_for(names: Sequence[str], others: Iterable[ScoreRule]) -> tuple[ScoreRule, ...]:
    """The bank, and whatever the rules of these names need beyond it, and `others`."""
    searched = (SEARCHED[name](Recency(half_life, 0.0), 0.5, 0).rule for name in names for half_life in HALF_LIVES)
    return tuple(dict.fromkeys((*BANK, *searched, *others)))
