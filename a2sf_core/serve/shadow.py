"""A policy measured beside the full cache: what it would have kept, and what it would have written next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from a2sf_core.cache import A2SFCache, parts_of
from a2sf_core.layer_policy import LayerPolicy


@dataclass
class Compared:
    """Over the tokens that the full cache has written.

    Attributes:
        tokens: that were compared.
        agreed: of these, where both have the same likeliest token.
        nats: KL from the full cache's distributions to the policy's, summed.
    """

    tokens: int = 0
    agreed: int = 0
    nats: float = 0.0

    def add(self, full: Tensor, pruned: Tensor) -> None:
        """One token more, from logits `[vocabulary]`."""
        expected, found = full.float().log_softmax(-1), pruned.float().log_softmax(-1)
        self.tokens += 1
        self.agreed += int(full.argmax() == pruned.argmax())
        self.nats += float((expected.exp() * (expected - found)).sum())


def whole_fork(cache: A2SFCache) -> A2SFCache:
    """Another cache that holds what `cache` holds now and evicts nothing of it, ever."""
    twin = cache.fork()
    for part in parts_of(twin):
        part.policy, part.chunk, part.decode_every = LayerPolicy(), None, None
    twin.seal()
    return twin
