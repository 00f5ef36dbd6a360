"""What a profile is: who needs how much of the cache, and how each layer forgets, known before any search.

There are three kinds: `fisher` weighs tokens by the gradient of what the model predicts; `cut_alone` measures what it
costs to cut one layer or KV head while all others keep everything; `reconstruction` looks at what a model needs to say
a prompt again. `profiles` says which one shapes a search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

PROFILE_FILE = "profile.json"
PART_FILE = "profile.part.json"
"""What was measured for it so far, until it is whole."""


@dataclass(frozen=True)
class Recency:
    """How a layer favours what is recent: the half-life of old attention in tokens, and the share of the budget, 0 to
    1, that goes to the last tokens."""

    half_life: float
    recent: float


class Profile(ABC):
    """Shares of the cache for every KV head at any total, and a recency for every layer.

    Attributes:
        kind: its name, as users read it.
        sink: first tokens that its policies always keep.
    """

    kind: ClassVar[str]
    sink: ClassVar[int]

    @abstractmethod
    def budgets(self, total: float) -> np.ndarray:
        """Shares `[layer, kv_head]`, 0 to 1, of mean `total`."""

    @abstractmethod
    def recencies(self, shares: np.ndarray) -> Sequence[Recency]:
        """What suits each layer at its share of the cache `[layer]`."""

    @abstractmethod
    def need(self) -> tuple[str, np.ndarray]:
        """What is to be seen in a picture: a title, and `[layer, kv_head]`, the more the more is needed."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
