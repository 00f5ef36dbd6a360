"""Reading all answer tokens at once over kept keys and values: what a trial spends its time on.

The same attention as serving's, of which tests hold it to 1e-4, without what a trial does not need: nothing is scored
or evicted, keys and values are copied once into a tensor with room for the answer, and query heads that share a KV head
are rows of one product, so that neither keys nor masks are repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface

from a2sf_core.selection import kept_indices

NAME = "a2sf_answers"

# transformers gives the attention function no cache: `update`, called just before it, leaves its layer here.
_current: ContextVar[KeptLayer] = ContextVar("a2sf_answers_layer")


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Inside, `model` reads answers with an `AnswerCache`; afterwards it is as it was."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


class AnswerCache(Cache):
    """Kept keys and values of a batch of prompts, for one forward over answers. One pair of arguments per layer.

    Args:
        stored: keys and values `[batch, kv_head, key, dim]` of the whole, left-padded prompts.
        keep: bool `[batch, kv_head, key]`, which of them are kept.
        n_new: answer tokens that come.
    """

    def __init__(self, stored: Sequence[tuple[Tensor, Tensor]], keep: Sequence[Tensor], n_new: int) -> None:
        layers = [KeptLayer(*pair, mask, n_new) for pair, mask in zip(stored, keep, strict=True)]
        super().__init__(layers=layers)


class KeptLayer(CacheLayerMixin):
    """One layer: kept tokens, then the answer's.

    Attributes:
        keys, values: `[batch, kv_head, kept + new, dim]`; the last `new` are filled by `update`.
        slots: int64 `[batch, kv_head, kept]`, ascending, -1 for unused ones.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, keep: Tensor, n_new: int) -> None:
        super().__init__()
        self.n_new, self.n_prompt = n_new, keep.shape[-1]
        self.slots = kept_indices(keep)
        # Heads that keep equally many tokens hide the same columns, so one mask serves them all.
        counts = keep.sum(-1)  # [batch, kv_head]
        self._alike = bool((counts == counts[:, :1]).all())
        first = torch.arange(counts.numel(), device=keep.device).view(*counts.shape, 1) * self.n_prompt
        room = first.expand(*counts.shape, n_new)  # [batch, kv_head, new], any token: overwritten
        rows = torch.cat([first + self.slots.clamp(min=0), room], -1)  # [batch, kv_head, kept + new]
        self.keys, self.values = _take(keys, rows), _take(values, rows)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: all is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put the answer's keys and values behind the kept ones, and hand out all of them."""
        self.keys[:, :, -self.n_new :] = key_states
        self.values[:, :, -self.n_new :] = value_states
        _current.set(self)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Length of the whole prompt: positions go on from there, whatever is kept."""
        return self.n_prompt

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask would cover, and where they begin; no mask is made here, see `bias`."""
        return self.n_prompt + query_length, 0

    def get_max_length(self) -> int:
        """No limit, in transformers' terms."""
        return -1

    def bias(self, group: int, sliding_window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where an answer token may look and -inf elsewhere: `[batch, kv_head or 1, group * new, kept + new]`."""
        slots = self.slots[:, :1] if self._alike and sliding_window is None else self.slots
        n_kept, new = slots.shape[-1], torch.arange(self.n_new, device=slots.device)
        bias = torch.zeros(*slots.shape[:2], group, self.n_new, n_kept + self.n_new, dtype=dtype, device=slots.device)
        hidden = slots[:, :, None, None] < 0  # [batch, kv_head, 1, 1, kept]
        later = new[None, :] > new[:, None]  # [new, new]
        if sliding_window is not None:
            first = self.n_prompt + new[:, None] - sliding_window + 1  # [new, 1], the first position in sight
            hidden = hidden | (slots[:, :, None, None] < first)  # [batch, kv_head, 1, new, kept]
            later = later | (self.n_prompt + new < first)
        bias[..., :n_kept].masked_fill_(hidden, float("-inf"))
        bias[..., n_kept:].masked_fill_(later, float("-inf"))
        return bias.flatten(2, 3)


def _take(stored: Tensor, rows: Tensor) -> Tensor:
    """`[batch, kv_head, slot, dim]`: whole rows, which is faster than a gather."""
    return stored.view(-1, stored.shape[-1]).index_select(0, rows.flatten()).view(*rows.shape, -1)


def _attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`query` `[batch, head, new, dim]` over `key` and `value` `[batch, kv_head, kept + new, dim]`."""
    batch, heads, new, dim = query.shape
    kv_heads = key.shape[1]
    bias = _current.get().bias(heads // kv_heads, sliding_window, query.dtype)
    grouped = query.reshape(batch, kv_heads, -1, dim)  # [batch, kv_head, group * new, dim]
    output = scaled_dot_product_attention(grouped, key, value, bias, scale=scaling)
    return output.view(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Layers keep different tokens, so each has its own mask: `KeptLayer.bias`."""


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)
