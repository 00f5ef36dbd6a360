"""The picture of learned forgetting: what one look at a token still counts after so many tokens, for every KV head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from a2sf_core.files import whole
from a2sf_core.half_life import alpha_of
from a2sf_core.rules.learned import Learned
from tuner.reporting.canvas import CHOSEN, DOTS, FRONT, INK, canvas, halo

AGES = np.unique(np.geomspace(1, 1025, 80).round()) - 1
"""Tokens since a query, at which curves are drawn."""
_BESIDE = 16.0
"""Half-life of A2SF's own curve that is drawn beside."""


def curves(rules: Sequence[Learned]) -> np.ndarray:
    """What one look counts at `AGES`, relative to its most, for a token that is looked at evenly: `[head, age]`.

    A product of powers is no sum over looks, so this is its slope: a small look adds w_h alpha_h^age / A_h to the
    logarithm, with A_h in proportion to the sum of alpha_h^age over the ages drawn.
    """
    found = []
    for rule in rules:
        powers = np.array(rule.powers)  # [kv_head, half_life]
        decays = np.array([alpha_of(half_life) ** AGES for half_life in rule.half_lives])  # [half_life, age]
        every_age = np.arange(AGES[-1] + 1)
        masses = np.array([(alpha_of(half_life) ** every_age).sum() for half_life in rule.half_lives])
        found.append(powers / masses @ decays)
    table = np.concatenate(found)  # [head, age]
    return table / np.abs(table).max(1, keepdims=True)


def learned_png(path: Path, rules: Sequence[Learned]) -> None:
    """Draw the curve of every KV head, their median, and A2SF's exponential beside."""
    table = curves(rules)
    title = "What one look at a token counts, by its age"
    figure, axes = canvas(
        title,
        f"Learned for {len(table)} KV heads (thin), and their median; dashed A2SF with one half-life of {_BESIDE:g} "
        "tokens.\nBelow 0 a look at that age speaks against keeping the token.",
    )
    places = AGES + 1
    axes.plot(places, table.T, color=DOTS, lw=0.7, alpha=0.6, zorder=1)
    for line, color, style in (
        (alpha_of(_BESIDE) ** AGES, INK, "--"),
        (np.median(table, axis=0), CHOSEN, "-"),
    ):
        axes.plot(places, line, color=color, lw=2.4, ls=style, zorder=3)
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set(xlabel="tokens since the look", ylabel="weight, relative to the most", ylim=(-1.05, 1.05))
    axes.axhline(0, color=FRONT, lw=0.8, zorder=2)
    for name, line, color, at in (
        ("half-life 16", alpha_of(_BESIDE) ** AGES, INK, 8),
        ("median of the heads", np.median(table, axis=0), CHOSEN, 180),
    ):
        height = float(np.interp(at, places, line))
        axes.annotate(
            name, (at, height), (6, 8), textcoords="offset points", color=color, fontsize=10.5, fontweight="bold",
            path_effects=halo("white"), zorder=5,
        )  # fmt: skip
    with whole(path) as beside:
        figure.savefig(beside, dpi=200)
