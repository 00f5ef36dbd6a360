"""The profile as a picture: which heads hold what matters, and what the chosen policy gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from a2sf_core.files import whole
from a2sf_core.policy import Policy
from tuner.search.profile import Profile

MOST_CELLS_WITH_FIGURES = 80


def profile_png(path: Path, profile: Profile, policy: Policy) -> None:
    """Draw what every KV head needs, and the share that `policy` keeps of it."""
    from matplotlib.figure import Figure

    title, need = profile.need()
    need = need.T  # [kv_head, layer]
    kept = kept_shares(policy, need.shape[0])
    width = min(16.0, max(8.0, 2.5 + 0.6 * need.shape[1]))
    figure = Figure(figsize=(width, 1.6 + 0.5 * min(need.shape[0], 12) * 2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _panel(figure, above, need, title, "OrRd", "{:.3f}", None)
    said = "Share of the cache that the policy keeps" + (", before a prompt deals it out" if policy.by_prompt else "")
    if growth := policy.layers[0].growth:
        said += f" (of {growth.longest:,} tokens or more; shorter prompts keep more)"
    _panel(figure, below, kept, said, "Blues", "{:.0%}", 1.0)
    below.set_xlabel("layer")
    with whole(path) as beside:
        figure.savefig(beside, dpi=130)


def kept_shares(policy: Policy, n_heads: int) -> np.ndarray:
    """Budget shares `[kv_head, layer]` of a policy whose budgets are shares; no budget counts as 1."""
    rows = []
    for layer in policy.layers:
        budget = 1.0 if layer.budget is None else layer.budget
        rows.append(budget if isinstance(budget, tuple) else (budget,) * n_heads)
    return np.array(rows, dtype=float).T


def _panel(figure: Any, axes: Any, values: np.ndarray, title: str, colours: str, form: str, top: float | None) -> None:
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=top, aspect="auto")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("KV head")
    axes.set_yticks(range(values.shape[0]))
    axes.set_xticks(range(values.shape[1]))
    figure.colorbar(image, ax=axes)
    if values.size <= MOST_CELLS_WITH_FIGURES:
        middle = (image.norm.vmax or 1) / 2
        for (head, layer), value in np.ndenumerate(values):
            colour = "white" if value > middle else "black"
            axes.text(layer, head, form.format(value), ha="center", va="center", color=colour, fontsize=8)
