"""The bank: every score that a prompt is read for at once, and which of them a layer goes by."""

from __future__ import annotations

from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.position import Position, Random

HALF_LIVES: tuple[float, ...] = (
    0, 0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, float("inf"),
)  # fmt: skip
"""The bank: half-lives in tokens that every prompt is scored for in one pass."""
SNAPKV_WINDOW = 16
"""Queries of the SnapKV-like baseline's voting window."""
BANK: tuple[ScoreRule, ...] = (*map(Decay, HALF_LIVES), Window(SNAPKV_WINDOW), Position(), Random())
"""The rules that a prompt is ranked by when it is read."""


def score_index(layer: LayerPolicy) -> int:
    """Which of a layer's orders `layer` goes by.

    Raises:
        A2SFError: if its rule is not in the bank.
    """
    if layer.ranked_by not in BANK:
        raise A2SFError(f"{layer.rule} is not in the engine's bank of rules; use one of {BANK}.")
    return BANK.index(layer.ranked_by)
