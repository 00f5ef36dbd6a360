"""Reading answer tokens over kept keys and values: what a trial spends its time on.

The same attention as serving's, of which tests hold it to 1e-4, without what a trial does not need: nothing is scored
or evicted, keys and values are copied once into a tensor with room for the answer, and query heads that share a KV head
are rows of one product, so that neither keys nor masks are repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface

from a2sf_core.selection import kept_indices

NAME = "a2sf_answers"

# All but cuDNN, which plans anew for every shape that it has not met, and each trial keeps other numbers of tokens.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

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
    """Kept keys and values of a batch of prompts, for reading answers over them, in one go or token by token."""

    def __init__(self, layers: Sequence[KeptLayer]) -> None:
        super().__init__(layers=list(layers))

    @classmethod
    def gather(
        cls, stored: Sequence[tuple[Tensor, Tensor]], keep: Sequence[Tensor], n_new: int, held: Tensor
    ) -> AnswerCache:
        """What is kept of whole, left-padded prompts. One pair of arguments per layer.

        Args:
            stored: keys and values `[prompt, kv_head, key, dim]`.
            keep: bool `[batch, kv_head, key]`, which of them are kept.
            n_new: tokens of questions and answers that come.
            held: int64 `[batch]`, which of the prompts each row goes on from.
        """
        return cls([KeptLayer.gather(*pair, mask, n_new, held) for pair, mask in zip(stored, keep, strict=True)])

    def settle(self, valid: Tensor) -> None:
        """Count what was read among what is kept: bool `[batch, read]`, False for padding at the end of a row."""
        for layer in self.layers:
            layer.settle(valid)

    def rewind(self) -> None:
        """Forget what was read since, so that another text can be."""
        for layer in self.layers:
            layer.rewind()

    @classmethod
    def join(cls, parts: Sequence[AnswerCache], n_new: int) -> AnswerCache:
        """The rows of several caches without room as one, with room for `n_new` answer tokens."""
        return cls([KeptLayer.join(layers, n_new) for layers in zip(*(part.layers for part in parts), strict=True)])


class KeptLayer(CacheLayerMixin):
    """One layer: kept tokens, a question's where one was read over them, then the answer's.

    Attributes:
        keys, values: `[batch, kv_head, kept + new, dim]`; the last `new` are filled by `update`, one after the other.
        slots: int64 `[batch, kv_head, kept]`, places in the prompt, -1 for unused ones.
        n_prompt: places that the prompt has, padding included.
        watch: called with query `[batch, kv_head, group * read, dim]`, keys, values, scale, bias and output
            `[batch, kv_head, group * read, dim]` of each attention, if set.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, n_prompt: int, alike: bool) -> None:
        """`alike`: the heads of a row use equally many slots, and hide the same columns."""
        super().__init__()
        self.keys, self.values, self.slots = keys, values, slots
        self.n_prompt, self.alike = n_prompt, alike
        self._n_read = 0
        self._seen = (0, 0)
        self.watch: Callable[[Tensor, Tensor, Tensor, float, Tensor, Tensor], None] | None = None
        self.is_initialized = True

    @classmethod
    def gather(cls, keys: Tensor, values: Tensor, keep: Tensor, n_new: int, held: Tensor) -> KeptLayer:
        """The tokens `keep` (bool `[batch, kv_head, key]`) of `[prompt, kv_head, key, dim]`, with room for `n_new`.

        Row i goes on from prompt `held[i]`.
        """
        slots, n_prompt = kept_indices(keep), keep.shape[-1]
        held = held.to(keep.device)
        # Heads that keep equally many tokens hide the same columns, so one mask serves them all.
        counts = keep.sum(-1)  # [batch, kv_head]
        heads = torch.arange(counts.shape[1], device=keep.device)  # [kv_head]
        first = ((held[:, None] * len(heads) + heads) * n_prompt)[..., None]  # [batch, kv_head, 1]
        room = first.expand(*counts.shape, n_new)  # [batch, kv_head, new], any token: overwritten
        rows = torch.cat([first + slots.clamp(min=0), room], -1)  # [batch, kv_head, kept + new]
        return cls(_take(keys, rows), _take(values, rows), slots, n_prompt, bool((counts == counts[:, :1]).all()))

    @classmethod
    def join(cls, parts: Sequence[KeptLayer], n_new: int) -> KeptLayer:
        """The rows of several layers that have no room, as one with room for `n_new`."""
        n_prompt, n_kept = max(part.n_prompt for part in parts), max(part.slots.shape[-1] for part in parts)
        first = parts[0]
        shape = sum(len(part.slots) for part in parts), first.slots.shape[1], n_kept
        slots = first.slots.new_full(shape, -1)
        keys = first.keys.new_zeros(*shape[:2], n_kept + n_new, first.keys.shape[-1])
        values = first.values.new_zeros(*shape[:2], n_kept + n_new, first.values.shape[-1])
        row = 0
        for part in parts:
            rows, used = slice(row, row + len(part.slots)), part.slots.shape[-1]
            # Prompts end at the same place, so that a sliding window sees as far back in each.
            slots[rows, :, :used] = torch.where(part.slots < 0, -1, part.slots + n_prompt - part.n_prompt)
            keys[rows, :, :used], values[rows, :, :used] = part.keys, part.values
            row = rows.stop
        return cls(keys, values, slots, n_prompt, all(part.alike for part in parts))

    def rewind(self) -> None:
        """Forget what was read since the prompt; its places are filled anew."""
        self._n_read, self._seen = 0, (0, 0)

    def settle(self, valid: Tensor) -> None:
        """`AnswerCache.settle` for this layer."""
        valid = valid.to(self.slots.device)
        n_read = valid.shape[1]
        # Rows end at the same place, so that what follows stands at one, and a sliding window sees as far back in each.
        shift = n_read - valid.sum(-1)  # [batch]
        slots = torch.where(self.slots < 0, -1, self.slots + shift[:, None, None])
        read = self.n_prompt + shift[:, None] + torch.arange(n_read, device=valid.device)  # [batch, read]
        read = read.masked_fill(~valid, -1)[:, None].expand(*slots.shape[:2], n_read)
        self.slots = torch.cat([slots, read], -1)
        self.n_prompt += n_read
        self.rewind()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: all is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put the next of the answer's keys and values behind the kept ones, and hand out all of them."""
        start, stop = self._n_read, self._n_read + key_states.shape[2]
        n_kept = self.slots.shape[-1]
        self.keys[:, :, n_kept + start : n_kept + stop] = key_states
        self.values[:, :, n_kept + start : n_kept + stop] = value_states
        self._n_read, self._seen = stop, (start, stop)
        _current.set(self)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Places of the whole prompt, whatever is kept of it, and of what was read since."""
        return self.n_prompt + self._n_read

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask would cover, and where they begin; no mask is made here, see `bias`."""
        return self.n_prompt + self._n_read + query_length, 0

    def get_max_length(self) -> int:
        """No limit, in transformers' terms."""
        return -1

    def bias(self, group: int, sliding_window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where the tokens just read may look, -inf elsewhere: `[batch, kv_head or 1, group * read, kept + new]`."""
        slots = self.slots[:, :1] if self.alike and sliding_window is None else self.slots
        n_kept, n_new = slots.shape[-1], self.keys.shape[2] - slots.shape[-1]
        read = torch.arange(*self._seen, device=slots.device)[:, None]  # [read, 1], places in the answer
        new = torch.arange(n_new, device=slots.device)  # [new]
        bias = torch.zeros(*slots.shape[:2], group, len(read), n_kept + n_new, dtype=dtype, device=slots.device)
        hidden = slots[:, :, None, None] < 0  # [batch, kv_head, 1, 1, kept]
        later = new > read  # [read, new]
        if sliding_window is not None:
            first = self.n_prompt + read - sliding_window + 1  # [read, 1], the first position in sight
            hidden = hidden | (slots[:, :, None, None] < first)  # [batch, kv_head, 1, read, kept]
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
    layer = _current.get()
    bias = layer.bias(heads // kv_heads, sliding_window, query.dtype)
    grouped = query.reshape(batch, kv_heads, -1, dim)  # [batch, kv_head, group * new, dim]
    with sdpa_kernel(_BACKENDS):
        output = scaled_dot_product_attention(grouped, key, value, bias, scale=scaling)
    if layer.watch:
        layer.watch(grouped, key, value, dim**-0.5 if scaling is None else scaling, bias, output)
    return output.view(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Layers keep different tokens, so each has its own mask: `KeptLayer.bias`."""


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)
