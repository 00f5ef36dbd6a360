"""What a request costs in cache memory under its policy, known before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from a2sf_core.cache import parts_of
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from a2sf_core.shape import fingerprint

_POSITION, _SCORE = 8, 4  # bytes: int64 and float32


@dataclass(frozen=True)
class CacheCost:
    """Bytes of keys, values, positions, scores and held queries: never less than what the tensors take.

    Activations and the weights are not counted; while tokens are appended, one layer is there twice for a moment.

    Attributes:
        policy: what the request is pruned by.
        kv_heads, heads: of a layer.
        vector: bytes of one key, one value or one query.
    """

    policy: Policy
    kv_heads: int
    heads: int
    vector: int

    @classmethod
    def of(cls, model: Any, policy: Policy) -> CacheCost:
        """For a transformers model as it is loaded."""
        shape = fingerprint(model)
        text = model.config.get_text_config()
        return cls(policy, shape["n_kv_heads"], text.num_attention_heads, shape["head_dim"] * model.dtype.itemsize)

    def reading(self, n: int) -> int:
        """At most, while a prompt of `n` tokens is read: all of it, unless the policy evicts between chunks."""
        return sum(
            self._slots(layer, self._kept_while_reading(layer, n), layer.ranked_by.accumulates) + self._queries(layer)
            for layer in self.policy.layers
        )

    def holding(self, n: int, new: int) -> int:
        """At most, once a prompt of `n` tokens is cut, until `new` tokens are written."""
        total = 0
        for layer in self.policy.layers:
            evicts = self.policy.decode_every is not None and layer.budget is not None
            kept = [self._kept_while_writing(layer, head, n, new) for head in range(self.kv_heads)]
            total += self._slots(layer, kept, layer.ranked_by.accumulates if evicts else ())
            total += self._queries(layer) if evicts else 0
        return total

    def full(self, n: int) -> int:
        """Keys and values of `n` tokens where nothing is dropped."""
        return len(self.policy.layers) * self.kv_heads * n * 2 * self.vector

    def _slots(self, layer: LayerPolicy, kept: list[int], half_lives: tuple[float, ...]) -> int:
        assert len(kept) == self.kv_heads, layer
        return sum(kept) * (2 * self.vector + _POSITION + _SCORE * len(half_lives))

    def _queries(self, layer: LayerPolicy) -> int:
        return layer.ranked_by.holds * self.heads * (self.vector + 1)

    def _kept_while_reading(self, layer: LayerPolicy, n: int) -> list[int]:
        if self.policy.chunk is None:
            return [n] * self.kv_heads
        return [min(n, budget + self.policy.chunk) for budget in self._budgets(layer, n)]

    def _kept_while_writing(self, layer: LayerPolicy, head: int, n: int, new: int) -> int:
        grown = self._budgets(layer, n)[head] + new
        if self.policy.decode_every is None:
            return grown
        return min(grown, self._budgets(layer, n + new)[head] + self.policy.decode_every)

    def _budgets(self, layer: LayerPolicy, n: int) -> list[int]:
        budgets = list(layer.head_budget_tokens(n))
        return budgets if len(budgets) == self.kv_heads else budgets * self.kv_heads


def held_bytes(cache: Any) -> int:
    """What `CacheCost` counts, measured on the tensors of a cache."""
    return sum(tensor.numel() * tensor.element_size() for part in parts_of(cache) for tensor in part.tensors())
