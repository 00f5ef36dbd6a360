"""Which tokens stay: sink, then recent, then the best-scored others.

The cache and the tuner both compose kept sets with `keep_from_order`, so that they cannot disagree. Given the
order of the tokens by score, any budget is a prefix of it: no sort per budget.
"""

from __future__ import annotations

import torch
from torch import Tensor


def order_by_score(scores: Tensor, valid: Tensor) -> Tensor:
    """Slots from best to worst score; invalid slots come last. Ties prefer the later slot.

    Args:
        scores: float `[..., key]`.
        valid: bool, broadcastable to `scores`; False for padding and empty slots.

    Returns:
        int64 `[..., key]`, a permutation of the slots.
    """
    n = scores.shape[-1]
    ranked = scores.masked_fill(~valid, float("-inf")).flip(-1)  # [..., key], last slot first
    return n - 1 - ranked.argsort(dim=-1, descending=True, stable=True)


def keep_from_order(order: Tensor, n_valid: Tensor, budget: Tensor, sink: Tensor | int, recent: Tensor | int) -> Tensor:
    """Compose the kept set from a score order. Vectorised over leading dimensions.

    The sink (first valid slots) is served first, then recent (last valid slots) gets what is left of the
    budget, then the best-scored others fill it.

    Args:
        order: int64 `[..., key]` from `order_by_score`: the first `n_valid` entries are the valid slots.
        n_valid: int64, broadcastable to `order[..., 0]`: how many slots are valid.
        budget: int64, broadcastable likewise: tokens to keep; more than `n_valid` keeps all.
        sink: tokens, an int or a tensor broadcastable likewise.
        recent: tokens, an int or a tensor broadcastable likewise.

    Returns:
        bool `[..., key]`: True for the slots to keep, in slot order.
    """
    rows = order.shape[:-1]
    n_valid = n_valid.expand(rows).unsqueeze(-1)  # [..., 1]
    budget = torch.minimum(budget.expand(rows).unsqueeze(-1), n_valid)  # [..., 1]
    n_sink = torch.minimum(_column(sink, order), budget)  # [..., 1]
    n_recent = torch.minimum(_column(recent, order), budget - n_sink)  # [..., 1]

    place = torch.arange(order.shape[-1], device=order.device)  # [key]
    in_order = (place < n_valid).expand(order.shape)  # [..., key], in score order
    valid = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, in_order)  # [..., key], in slot order
    rank = valid.cumsum(-1) - 1  # [..., key]
    safe = valid & ((rank < n_sink) | (rank >= n_valid - n_recent))  # [..., key]

    others = in_order & ~safe.gather(-1, order)  # [..., key], in score order
    best = others & (others.cumsum(-1) <= budget - n_sink - n_recent)  # [..., key]
    return safe | torch.zeros_like(safe).scatter_(-1, order, best)


def kept_indices(keep: Tensor) -> Tensor:
    """Slots of a kept set, ascending, -1 where a row keeps fewer than the longest row.

    Args:
        keep: bool `[..., key]`.

    Returns:
        int64 `[..., kept]`, kept = the largest count over all rows.
    """
    place = keep.cumsum(-1)  # [..., key], from 1
    width = int(place.max()) if place.numel() else 0
    # What is not kept goes to column 0, which is then cut off: no sort.
    slots = keep.new_full((*keep.shape[:-1], width + 1), -1, dtype=torch.long)
    key = torch.arange(keep.shape[-1], device=keep.device).expand(keep.shape)  # [..., key]
    return slots.scatter_(-1, place.masked_fill_(~keep, 0), key)[..., 1:]


def kept_from_order(order: Tensor, n_valid: Tensor, budget: Tensor, sink: Tensor | int, recent: Tensor | int) -> Tensor:
    """`kept_indices(keep_from_order(...))`: int64 `[..., kept]`, ascending, -1 for unused entries."""
    return kept_indices(keep_from_order(order, n_valid, budget, sink, recent))


def select(scores: Tensor, valid: Tensor, budget: Tensor, recent: Tensor, sink: int) -> Tensor:
    """The slots that one layer keeps.

    Args:
        scores: float `[batch, kv_head, key]`.
        valid: bool `[batch, key]` or `[batch, kv_head, key]`.
        budget: int64 `[batch]` or `[batch, kv_head]`, tokens.
        recent: int64, shaped like `budget`, tokens.
        sink: tokens.

    Returns:
        int64 `[batch, kv_head, kept]`, ascending, -1 for unused entries.
    """
    if valid.dim() == 2:
        valid = valid[:, None, :]  # [batch, 1, key]
    valid = valid.expand(scores.shape)  # [batch, kv_head, key]
    if budget.dim() == 1:
        budget, recent = budget[:, None], recent[:, None]  # [batch, 1]
    order = order_by_score(scores, valid)  # [batch, kv_head, key]
    return kept_from_order(order, valid.sum(-1), budget, sink, recent)


def _column(count: Tensor | int, order: Tensor) -> Tensor:
    tensor = torch.as_tensor(count, device=order.device)
    return tensor.expand(order.shape[:-1]).unsqueeze(-1)  # [..., 1]
