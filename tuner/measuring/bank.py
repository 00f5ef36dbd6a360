"""The bank: every score that a prompt is read for at once, and which of them a layer goes by."""

from __future__ import annotations

from a2sf_core.errors import A2SFError
from a2sf_core.policy import LayerPolicy

HALF_LIVES: tuple[float, ...] = (
    0, 0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, float("inf"),
)  # fmt: skip
"""The bank: half-lives in tokens that every prompt is scored for in one pass."""
SNAPKV_WINDOW = 16
"""Queries of the SnapKV-like baseline's voting window."""


def score_index(rule: LayerPolicy) -> int:
    """Which of a layer's orders `rule` goes by.

    Raises:
        A2SFError: if the half-life is not in the bank, or the window is not the stored one.
    """
    if rule.window is not None:
        if rule.window != SNAPKV_WINDOW:
            raise A2SFError(f"the engine stores scores for a window of {SNAPKV_WINDOW}, not {rule.window}.")
        return len(HALF_LIVES)
    if rule.half_life not in HALF_LIVES:
        raise A2SFError(f"half-life {rule.half_life:g} is not in the engine's bank; use one of {HALF_LIVES}.")
    return HALF_LIVES.index(rule.half_life)
