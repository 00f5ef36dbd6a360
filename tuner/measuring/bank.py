"""The bank: every rule that a prompt is ranked by in one pass, and which of them a layer goes by."""

from __future__ import annotations

from dataclasses import dataclass

from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.position import Position, Random

HALF_LIVES: tuple[float, ...] = (
    0, 0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, float("inf"),
)  # fmt: skip
"""Half-lives in tokens that every prompt is scored for."""
SNAPKV_WINDOW = 16
"""Queries of the SnapKV-like baseline's voting window."""
BANK: tuple[ScoreRule, ...] = (*map(Decay, HALF_LIVES), Window(SNAPKV_WINDOW), Position(), Random())
"""What every engine knows; a search over other rules brings those too."""


@dataclass(frozen=True)
class Bank:
    """Every rule that an engine ranks tokens by.

    shared: of all layers. own: one more for each layer, where rules were learned; else none.
    """

    shared: tuple[ScoreRule, ...]
    own: tuple[ScoreRule, ...] = ()

    def of(self, layer: int) -> tuple[ScoreRule, ...]:
        """The rules of one layer, in the order of its token orders."""
        return (*self.shared, *self.own[layer : layer + 1])

    def place(self, index: int, layer: LayerPolicy) -> int:
        """Which of the orders of layer `index` its policy goes by.

        Raises:
            A2SFError: if its rule is not in the bank.
        """
        if layer.ranked_by not in self.of(index):
            known = ", ".join(map(str, self.of(index)))
            raise A2SFError(f"{layer.rule} is not in the engine's bank of rules; it has {known}.")
        return self.of(index).index(layer.ranked_by)
