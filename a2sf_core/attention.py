"""The attention function and the mask function that transformers calls while a model is attached.

Both are registered under one name through the official interfaces; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from a2sf_core.errors import A2SFError
from a2sf_core.layers.base import PruningLayer, take_waiting_layer
from a2sf_core.layers.ragged import Heads, RaggedLayer
from a2sf_core.layers.rows import RowsLayer
from a2sf_core.layers.slot_part import SlotPart
from a2sf_core.layers.slots import SlotLayer
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.plain.span import Span
from a2sf_core.scores import attend_and_score, attend_and_score_causal, attend_and_score_left_padded

NAME = "a2sf"

# Attention arguments that change the probabilities in a way the scores would not see.
_UNSUPPORTED = {
    "softcap": "logit soft-capping",
    "s_aux": "attention sinks (s_aux)",
    "position_bias": "a position bias",
}

# Devices, and the largest head, on which one unmasked query of grouped heads needs no repeated keys.
_QUICK, _LARGEST = ("cpu", "cuda"), 256

# Entries of one attention mask, which is built for a block of queries at a time: 32 MB of bool.
_MASK_ENTRIES = 32_000_000


def padding_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """Hand the 2-D padding mask `[batch, tokens]` through, or None if nothing is padded.

    transformers builds one mask per forward, sized by the first layer; layers with different budgets need
    their own, which the attention function builds from the positions each layer holds.
    """
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask.bool()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over what the layer holds and the new tokens, score the queries, and evict where it is due.

    Args:
        query: `[batch, head, query, dim]`.
        key, value: the new tokens only, `[batch, kv_head, query, dim]`.
        attention_mask: bool `[batch, tokens so far]` from `padding_mask`, or None.

    Returns:
        `[batch, query, head, dim]` and None.

    Raises:
        A2SFError: for models whose attention does something that the scores would not see.
    """
    layer = take_waiting_layer()
    if layer is None:
        raise A2SFError(
            "the attached model was run without a cache that the policy can prune; call the whole model "
            "(not a part of it) and leave use_cache on."
        )
    for name, meaning in _UNSUPPORTED.items():
        if kwargs.get(name) is not None:
            raise A2SFError(f"{type(module).__name__} uses {meaning}, which A2SF scores do not support.")
    if query.requires_grad:
        raise A2SFError("pruning is for inference; call the attached model under torch.no_grad().")
    if dropout:
        raise A2SFError("attention dropout is on, so scores would be random; call model.eval() first.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(layer, SlotLayer):  # one decoded token, which is never padding
        read = partial(SlotPart.attend, scale=scale, sliding_window=sliding_window)
        if len(layer.parts) == 1:
            return read(layer.parts[0], query, key, value).transpose(1, 2), None
        return _by_budget(layer.groups(), query, key, value, read), None
    read = partial(_read_layer, module=module, scale=scale, sliding_window=sliding_window)
    if isinstance(layer, RowsLayer):  # one decoded token a row
        rows = zip(layer.rows, query.split(1), key.split(1), value.split(1), strict=True)
        return torch.cat([read(*row, valid=None) for row in rows]), None
    return read(
        layer, query, key, value, valid=_new_tokens(attention_mask, layer.get_seq_length(), query.shape[2])
    ), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, padding_mask)


def _read_layer(layer: PruningLayer, query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> Tensor:
    """`attention` for one layer of a growing cache: `[batch, query, head, dim]`."""
    if isinstance(layer, A2SFLayer):
        return _read(layer, query, key, value, **rest).transpose(1, 2).contiguous()
    assert isinstance(layer, RaggedLayer)
    return _by_budget(layer.groups(), query, key, value, partial(_read, **rest))


def _by_budget(
    groups: Iterator[tuple[Heads, Any]], query: Tensor, key: Tensor, value: Tensor, read: Callable[..., Tensor]
) -> Tensor:
    """`read(part, query, key, value)` for each group of KV heads: `[batch, query, head, dim]`."""
    held = list(groups)
    sizes = [heads.stop - heads.start for heads, _ in held if isinstance(heads, slice)]
    if query.shape[2] == 1 and len(sizes) == len(held):  # all of them neighbours: one token is split and joined quickly
        given = query.split([size * (query.shape[1] // key.shape[1]) for size in sizes], dim=1)
        each = zip(held, given, key.split(sizes, dim=1), value.split(sizes, dim=1), strict=True)
        return torch.cat([read(part, *own) for (_, part), *own in each], dim=1).transpose(1, 2)
    grouped = query.unflatten(1, (key.shape[1], -1))  # [batch, kv_head, group, query, dim]
    batch, kv_heads, group, n, _ = grouped.shape
    output = query.new_empty(batch, n, kv_heads, group, value.shape[-1])
    for heads, part in held:
        own = read(part, grouped[:, heads].flatten(1, 2), key[:, heads], value[:, heads])
        output[:, :, heads] = own.unflatten(1, (-1, group)).permute(0, 3, 1, 2, 4)
    return output.flatten(2, 3)


def _read(
    layer: A2SFLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    module: nn.Module,
    valid: Tensor | None,
    scale: float,
    sliding_window: int | None,
) -> Tensor:
    """`attention` for KV heads with one budget and their query heads: `[batch, head, query, dim]`."""
    layer.recent_queries.add(query, valid, scale, sliding_window)
    pieces = layer.pieces(query.shape[2], valid)
    outputs = []
    for start, stop, due in pieces:
        given = query, key, value
        if len(pieces) > 1:
            given = query[:, :, start:stop], key[:, :, start:stop], value[:, :, start:stop]
        piece_valid = None if valid is None else valid[:, start:stop]
        layer.append(given[1], given[2], piece_valid)
        outputs.append(_attend(module, layer, given[0], piece_valid, scale, sliding_window))
        if due is not None:
            layer.evict(due)
    layer.end_forward()
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _new_tokens(mask: Tensor | None, seen: int, n: int) -> Tensor | None:
    if mask is None:
        return None
    if mask.dim() != 2:
        raise A2SFError("attention_mask must be 2-D [batch, tokens], 1 for tokens and 0 for padding.")
    if mask.shape[1] < seen + n:
        raise A2SFError(
            f"attention_mask covers {mask.shape[1]} tokens, but the cache has seen {seen} and {n} more come; "
            "pass the mask of the whole sequence."
        )
    valid = mask[:, seen : seen + n]  # [batch, query]
    # No decoded token is padding; only a prompt need ask, which costs little beside reading it.
    return None if n == 1 or bool(valid.all()) else valid


def _attend(
    module: nn.Module,
    layer: A2SFLayer,
    query: Tensor,
    valid: Tensor | None,
    scale: float,
    sliding_window: int | None,
) -> Tensor:
    keys, values = layer.keys, layer.values
    n = query.shape[2]
    # With at most `sliding_window` tokens in the sequence the window hides nothing.
    window = None if sliding_window is None or sliding_window >= layer.seen else sliding_window
    plain = layer.is_dense and window is None and n == keys.shape[2]
    if layer.half_lives:
        if plain:
            output, scores = attend_and_score_causal(query, keys, values, layer.half_lives, scale)
        elif valid is not None and window is None and n == layer.seen and bool((valid[:, 1:] >= valid[:, :-1]).all()):
            output, scores = attend_and_score_left_padded(query, keys, values, layer.half_lives, scale, valid)
        else:
            span = Span(layer.seen - n, layer.positions, valid, window)
            output, scores = attend_and_score(query, keys, values, layer.half_lives, scale, span)
        layer.add_scores(scores, n)
        return output
    if plain or (n == 1 and window is None and not layer.has_empty):
        return _sdpa(module, query, keys, values, None, scale)
    # One mask serves all heads while they hold the same tokens or each query sees every slot before it.
    alike = layer.heads_agree or (window is None and not layer.has_empty)
    shared = layer.positions[:, :1] if alike else layer.positions
    span = Span(layer.seen - n, shared, None, window)
    size = max(1, _MASK_ENTRIES // (shared.shape[0] * shared.shape[1] * keys.shape[2]))
    blocks = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        mask = span.visible(start, stop)  # [batch, 1 or kv_head, query, key]
        mask = mask | ~mask.any(-1, keepdim=True)  # a query that sees nothing is padding: anything but NaN
        if mask.shape[1] > 1:
            mask = mask.repeat_interleave(query.shape[1] // mask.shape[1], dim=1)  # [batch, head, query, key]
        blocks.append(_sdpa(module, query[:, :, start:stop], keys, values, mask, scale))
    return torch.cat(blocks, dim=2)


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    same = key.shape[-1] == value.shape[-1] <= _LARGEST
    if query.shape[2] == 1 and mask is None and same and query.device.type in _QUICK:
        # What the stock function comes to here, without the questions that it asks first.
        return scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=query.shape[1] > key.shape[1])
    # The stock function, so that without a budget the numbers are the stock ones to the last bit.
    output, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scale)
    return output.transpose(1, 2)  # [batch, head, query, dim]
