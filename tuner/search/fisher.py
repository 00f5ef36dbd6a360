"""The Fisher profile: how much every KV head has to keep, by what the model's predictions lose with each token.

`tuner.measuring.token_losses` says what one token is worth to one head, in nats. Tokens are dropped in the order in
which a policy will drop them, by attention forgotten with a half-life; what a head then still loses at a share of its
tokens is a curve, and a total is dealt out where the next token helps most. `tuner.search.gradients` measures the
curves; here is what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from a2sf_core.rules.base import plain
from tuner.search.allocation import allocate, with_floor
from tuner.search.profile import Profile, Recency
from tuner.search.reconstruction import FLOOR, RECENT, SINK

SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 1.0)
"""Of a head's tokens, at which its curve is known."""
TOGETHER = 0.75
"""Power of what tokens are worth alone, before they are added up: what is dropped together acts neither independently
(1) nor all in one direction (1/2). docs/heads.md says what each is worth."""
_DIGITS = 4


@dataclass(frozen=True)
class Fisher(Profile):
    """What every head loses at every share of its tokens, by the half-life that orders them.

    half_lives: tokens. losses: `[half_life, layer, kv_head, share]` at `SHARES`, mean over the prompts; comparable
    between heads, of no unit (`TOGETHER`). n_prompts: that were looked at. half_life: the one of `half_lives` that all
    layers use. floor: of the mean share, what every head gets whatever it needs: 1 makes all heads alike.
    """

    half_lives: tuple[float, ...]
    losses: np.ndarray
    n_prompts: int
    half_life: float
    floor: float = FLOOR
    kind: ClassVar[str] = "fisher"
    sink: ClassVar[int] = SINK

    def budgets(self, total: float) -> np.ndarray:
        """Shares `[layer, kv_head]` of mean `total` by marginal utility, and the floor: few prompts do not show every
        use of a head."""
        curves = self.losses[self.half_lives.index(self.half_life)]  # [layer, kv_head, share]
        wanted = allocate(SHARES, curves.reshape(-1, len(SHARES)), total)  # [head]
        return with_floor(wanted, self.floor, total).reshape(curves.shape[:2])

    def recencies(self, shares: np.ndarray) -> Sequence[Recency]:
        """The same for every layer, whatever its share of the cache `[layer]`."""
        return [Recency(self.half_life, RECENT)] * len(shares)

    def need(self) -> tuple[str, np.ndarray]:
        """What heads keep of a tenth of the cache."""
        return "Share that a head keeps of 10 % of the cache for its tokens' worth in nats", self.budgets(0.1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the grid it was measured on."""
        return {
            "shares": list(SHARES),
            "half_lives": plain(self.half_lives),
            "half_life": plain(self.half_life),
            "floor": self.floor,
            "n_prompts": self.n_prompts,
            "losses": rounded(self.losses),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Fisher:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is not that, or was measured on another grid.
        """
        if data["shares"] != list(SHARES):
            raise ValueError("it was measured on another grid by an older version")
        losses = np.array(data["losses"], dtype=float)
        half_lives = tuple(map(float, data["half_lives"]))
        return cls(half_lives, losses, data["n_prompts"], float(data["half_life"]), float(data["floor"]))


def rounded(losses: np.ndarray) -> Any:
    """Nested lists with four digits that count."""
    size = 10.0 ** (np.floor(np.log10(np.maximum(np.abs(losses), 1e-30))) - _DIGITS + 1)
    return (np.round(losses / size) * size).tolist()
