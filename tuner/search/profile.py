"""The sensitivity profile: what it costs to cut one layer, or one KV head, while all others keep everything.

`tuner.search.profiling` measures it; here is what it says: who needs how much, and how each forgets.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from a2sf_core.foreign import parse_json, read_text
from tuner.schemas import validated
from tuner.search.allocation import allocate
from tuner.search.profile_schema import ProfileSchema

PROFILE_FILE = "profile.json"
BUDGETS = (0.03, 0.08, 0.2, 0.45)
"""Shares of the cache that a layer or head is cut to."""
SINK = 2
"""First tokens that stay in the cut layer or head."""
NEGLIGIBLE = 0.002
"""A loss below this many nats per token (a perplexity 0.2 % higher) counts as none."""
UNSEEN = NEGLIGIBLE / 2


@dataclass(frozen=True)
class Recency:
    """How a layer favours what is recent: the half-life of old attention in tokens, and the share of the budget, 0 to
    1, that goes to the last tokens."""

    half_life: float
    recent: float


@dataclass(frozen=True)
class Profile:
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the grid it was measured on."""
        return {
            "budgets": list(BUDGETS),
            "layer_loss": self.layer_loss.tolist(),
            "half_life": [["inf" if math.isinf(h) else h for h in row] for row in self.half_life.tolist()],
            "recent": self.recent.tolist(),
            "head_loss": self.head_loss.tolist(),
            "n_samples": self.n_samples,
            "evaluations": self.evaluations,
        }

    def save(self, path: Path) -> None:
        """Write JSON to `path`, whole or not at all."""
        write_whole(path, json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            A2SFError: if the file is not a profile, or one of another grid.
        """
        mend = "delete it, it is measured anew."
        text = read_text(path, "the sensitivity profile", mend)
        where = f"{path} is not a sensitivity profile"
        read = validated(ProfileSchema, parse_json(text, where, mend), where, mend)
        if read.budgets != list(BUDGETS):
            raise A2SFError(f"{path} was measured on another grid by an older version; {mend}")
        tables = [np.array(table, dtype=float) for table in (read.layer_loss, read.half_life, read.recent)]
        return cls(tables[0], tables[1], tables[2], np.array(read.head_loss), read.n_samples, read.evaluations)

    def check_shape(self, n_layers: int, n_kv_heads: int, path: Path) -> None:
        """Raise A2SFError unless it is of a model with so many layers and KV heads; `path` is where it was read."""
        found = self.head_loss.shape[:2]
        if found != (n_layers, n_kv_heads):
            raise A2SFError(
                f"{path} is of a model with {found[0]} layers and {found[1]} KV heads, not {n_layers} and "
                f"{n_kv_heads}; delete it, it is measured anew."
            )
