"""The profile of reconstruction: how much every KV head has to keep so that the prompt could be said again.

KVzip (arXiv 2505.23416) scores the tokens of each request by reading it twice. Which head needs how much hardly differs
from prompt to prompt, though, so that it can be learned once, from a few prompts, and served as fixed budgets per head.
`tuner.search.rereading` measures it; here is what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tuner.search.allocation import with_floor
from tuner.search.profile import Profile, Recency

TOTALS = (0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6)
"""Shares of the whole cache at which it is looked who keeps what."""
SINK = 4
"""First tokens that every head keeps."""
FLOOR = 0.05
"""Of the mean share, what every head gets whatever it needs: second readings do not look at everything."""
HALF_LIFE, RECENT = 16.0, 0.25
"""What goes with it in every layer: an ordinary half-life, and recent tokens in proportion to a head's own budget, so
that they never fill a small one."""


def kept_shares(attention: np.ndarray) -> np.ndarray:
    """The share that each head keeps if the tokens of all heads compete: `[total, layer, kv_head]` at `TOTALS`.

    Args:
        attention: `[layer, kv_head, n]`, the largest that each token is paid when the prompt is read again.
    """
    n_layers, n_heads, n = attention.shape
    worth = attention.copy()
    worth[..., :SINK] = np.inf
    best_first = np.argsort(-worth, axis=None, kind="stable")  # [layer * kv_head * n]
    head = best_first // n  # whose token it is
    counts = [np.bincount(head[: round(total * head.size)], minlength=n_layers * n_heads) for total in TOTALS]
    return np.stack(counts).reshape(len(TOTALS), n_layers, n_heads) / n


@dataclass(frozen=True)
class Reconstruction(Profile):
    """Who keeps what, as a curve over the total for every head.

    kept: `[prompt, total, layer, kv_head]` shares at `TOTALS`, from `kept_shares`.
    floor: of the mean share, what every head gets whatever it needs: 1 makes all heads alike.
    half_life: of every layer, in tokens.
    """

    kept: np.ndarray
    floor: float = FLOOR
    half_life: float = HALF_LIFE
    kind: ClassVar[str] = "reconstruction"
    sink: ClassVar[int] = SINK

    def budgets(self, total: float) -> np.ndarray:
        """Shares `[layer, kv_head]` of mean `total`: the mean over the prompts, and the floor."""
        curves = self.kept.mean(0)  # [total, layer, kv_head]
        ends = [np.zeros_like(curves[:1]), curves, np.ones_like(curves[:1])]
        flat = np.concatenate(ends).reshape(len(TOTALS) + 2, -1)  # [total, head]
        grid = (0.0, *TOTALS, 1.0)
        wanted = np.array([np.interp(total, grid, curve) for curve in flat.T])  # [head]
        return with_floor(wanted, self.floor, total).reshape(curves.shape[1:])

    def recencies(self, shares: np.ndarray) -> Sequence[Recency]:
        """The same for every layer, whatever its share of the cache `[layer]`."""
        return [Recency(self.half_life, RECENT)] * len(shares)

    def need(self) -> tuple[str, np.ndarray]:
        """What heads keep of a tenth of the cache."""
        return "Share that a head keeps of 10 % of the cache to say the prompt again", self.budgets(0.1)

    def spread(self) -> float:
        """How far the mean may be off: its standard error over the prompts, mean over heads, in parts of the total.

        Mean over `TOTALS`; infinite for a single prompt.
        """
        if len(self.kept) < 2:
            return float("inf")
        error = self.kept.std(0, ddof=1).mean((-2, -1)) / len(self.kept) ** 0.5  # [total]
        return float((error / np.array(TOTALS)).mean())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the grid it was measured on."""
        return {
            "totals": list(TOTALS),
            "floor": self.floor,
            "half_life": self.half_life,
            "kept": self.kept.round(4).tolist(),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Reconstruction:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is not that, or was measured on another grid.
        """
        if data["totals"] != list(TOTALS):
            raise ValueError("it was measured on another grid by an older version")
        kept = np.array(data["kept"], dtype=float)
        if kept.ndim != 4:
            raise ValueError("its table does not have four dimensions")
        return cls(kept, float(data["floor"]), float(data["half_life"]))
