"""The cache object that transformers passes around: one pruning layer per decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Cache

from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.base import PruningLayer
from a2sf_core.layers.by_prompt import ByPromptLayer, together
from a2sf_core.layers.ragged import RaggedLayer
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.policy import Policy


def policy_layers(policy: Policy) -> list[PruningLayer]:
    """Empty layers that follow `policy`."""
    return together([_layer(policy, layer) for layer in policy.layers])


def _layer(policy: Policy, layer: LayerPolicy) -> PruningLayer:
    if policy.by_prompt and layer.budget is not None:
        return ByPromptLayer(layer)
    return (RaggedLayer if layer.is_ragged else A2SFLayer)(layer, policy.chunk, policy.decode_every)


class A2SFCache(Cache):
    """A transformers cache that evicts as its policy says; only an attached model may use it.

    When tokens go, for evict "prefill": the prompt may come in several forwards and the cache cannot know
    which is the last, so the cut is lazy. It happens at the start of the first single-token forward, or when
    `cut()` is called. A last prompt piece of exactly one token (say 33 tokens with prefill_chunk_size=16) is
    therefore taken for a decoded token: the cut then comes one token early.
    """

    layers: list[PruningLayer]

    def __init__(self, policy: Policy | None = None, layers: Sequence[PruningLayer] | None = None) -> None:
        """Empty layers for `policy`, or the given `layers`."""
        if (policy is None) == (layers is None):
            raise A2SFError("A2SFCache takes either a policy or a list of layers.")
        super().__init__(layers=policy_layers(policy) if policy is not None else list(layers or ()))

    def cut(self) -> None:
        """Drop tokens now, down to the budgets, instead of at the first decoded token."""
        cut_layers(self)

    def seal(self) -> None:
        """Cut now, for the last time: whatever is read from here on stays, except what `decode_every` evicts.

        For a context that is pruned before its questions are known; see `a2sf_core.context.read_context`.
        """
        for layer in self.layers:
            layer.seal()

    def fork(self) -> A2SFCache:
        """Another cache that goes on from here, as for the next question on one context.

        Both share what is held now; neither sees what the other reads.
        """
        return A2SFCache(layers=together([layer.fork() for layer in self.layers]))

    def nbytes(self) -> int:
        """Bytes of the keys and values held now, measured on the tensors."""
        return cache_nbytes(self)


def cut_layers(cache: Cache) -> None:
    """`A2SFCache.cut` for any cache that holds our layers, such as the one that generate returns."""
    for layer in cache.layers:
        layer.cut()


def parts_of(cache: Any) -> list[Any]:
    """What holds the tokens of a cache: its layers, or their parts where KV heads have budgets of their own."""
    return [part for layer in cache.layers for part in getattr(layer, "parts", [layer])]


def cache_nbytes(cache: Cache) -> int:
    """Bytes of keys and values in any transformers cache whose layers have been filled."""
    held = [tensor for part in parts_of(cache) for tensor in (part.keys, part.values) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
