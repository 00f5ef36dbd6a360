"""The profile of cuts: what it costs to cut one layer, or one KV head, while all others keep everything.

`tuner.search.profiling` measures it; here is what it says: who needs how much, and how each forgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from a2sf_core.rules.base import plain
from tuner.search.allocation import allocate
from tuner.search.profile import Profile, Recency

BUDGETS = (0.03, 0.08, 0.2, 0.45)
"""Shares of the cache that a layer or head is cut to."""
SINK = 2
"""First tokens that stay in the cut layer or head."""
NEGLIGIBLE = 0.002
"""A loss below this many nats per token (a perplexity 0.2 % higher) counts as none."""
UNSEEN = NEGLIGIBLE / 2


@dataclass(frozen=True)
class CutAlone(Profile):
    """Increase of the NLL (nats per token, mean over the samples) when one layer or KV head alone is cut.

    layer_loss: `[layer, budget]` at `BUDGETS`, each with the best recency that was tried.
    half_life, recent: `[layer, budget]`, these recencies. What is best depends on the budget: the smaller it is, the
    more of it has to go to the last tokens.
    head_loss: `[layer, kv_head, budget]`: the layer's loss, shared out in proportion to what cutting each head alone
    costs. Heads that do the same work stand in for each other, so that what they cost alone adds up to too little.
    """

    layer_loss: np.ndarray
    half_life: np.ndarray
    recent: np.ndarray
    head_loss: np.ndarray
    n_samples: int
    evaluations: int
    kind: ClassVar[str] = "cut alone"
    sink: ClassVar[int] = SINK

    def budgets(self, total: float) -> np.ndarray:
        """Shares `[layer, kv_head]` of mean `total` by marginal utility.

        A loss that passed for none is only known to be small, and small ones add up over the heads of a model. So
        every head is taken to lose `UNSEEN` at the smallest budget, falling with the logarithm of the budget: heads
        that seem to need nothing get a part of what is left when the others have what they need most.
        """
        unseen = UNSEEN * np.log(BUDGETS) / math.log(BUDGETS[0])  # [budget]
        whole = np.zeros((*self.head_loss.shape[:2], 1))
        curves = np.concatenate([np.maximum(self.head_loss, unseen), whole], -1)  # [layer, kv_head, budget]
        shares = allocate((*BUDGETS, 1.0), curves.reshape(-1, curves.shape[-1]), total)
        return shares.reshape(self.head_loss.shape[:2])

    def recencies(self, shares: np.ndarray) -> list[Recency]:
        """The best of each layer at its share of the cache `[layer]`: that of the nearest measured budget."""
        distance = np.abs(np.log(shares[:, None] / np.array(BUDGETS)))  # [layer, budget]
        nearest = distance.argmin(-1)  # [layer]
        return [self.recency(layer, place) for layer, place in enumerate(nearest)]

    def recency(self, layer: int, place: int) -> Recency:
        """The best of one layer at the budget in `place` of `BUDGETS`."""
        return Recency(float(self.half_life[layer, place]), float(self.recent[layer, place]))

    def need(self) -> tuple[str, np.ndarray]:
        """The loss at the smallest budget."""
        title = f"Share in the loss when its layer keeps {BUDGETS[0]:.0%}, nats per token"
        return title, self.head_loss[:, :, 0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the grid it was measured on."""
        return {
            "budgets": list(BUDGETS),
            "layer_loss": self.layer_loss.tolist(),
            "half_life": [plain(tuple(row)) for row in self.half_life.tolist()],
            "recent": self.recent.tolist(),
            "head_loss": self.head_loss.tolist(),
            "n_samples": self.n_samples,
            "evaluations": self.evaluations,
        }

    @classmethod
    def from_dict(cls, data: Any) -> CutAlone:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is not that, or was measured on another grid.
        """
        if data["budgets"] != list(BUDGETS):
            raise ValueError("it was measured on another grid by an older version")
        tables = [np.array(data[name], dtype=float) for name in ("layer_loss", "half_life", "recent", "head_loss")]
        return cls(tables[0], tables[1], tables[2], tables[3], data["n_samples"], data["evaluations"])
