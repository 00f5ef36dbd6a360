"""Which tokens stay: sink, then recent, then the best-scored others.

The cache and the tuner both compose kept sets with `keep_from_order`, so that they cannot disagree. Given the
order of the tokens by score, any budget is a prefix of it: no sort per budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The high half of a rank holds the bits of a score, of which infinity has the greatest, 0x7F800000.
_ABOVE_ALL_SCORES = 0x7FFFFFFF << 32


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
    n_sink, n_recent = safe_counts(budget, _column(sink, order), _column(recent, order))

    place = torch.arange(order.shape[-1], device=order.device)  # [key]
    in_order = (place < n_valid).expand(order.shape)  # [..., key], in score order
    valid = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, in_order)  # [..., key], in slot order
    safe = safe_slots(valid, n_valid, n_sink, n_recent)  # [..., key]

    others = in_order & ~safe.gather(-1, order)  # [..., key], in score order
    best = others & (others.cumsum(-1) <= budget - n_sink - n_recent)  # [..., key]
    return safe | torch.zeros_like(safe).scatter_(-1, order, best)


def safe_counts(budget: Tensor, sink: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the sink, and recent ones, that a budget has room for; all int64 of one shape."""
    n_sink = torch.minimum(sink, budget)
    return n_sink, torch.minimum(recent, budget - n_sink)


def safe_slots(valid: Tensor, n_valid: Tensor, n_sink: Tensor, n_recent: Tensor) -> Tensor:
    """The first `n_sink` and the last `n_recent` of the slots `valid`, bool `[..., key]`; the counts are `[..., 1]`."""
    rank = valid.cumsum(-1) - 1  # [..., key]
    return valid & ((rank < n_sink) | (rank >= n_valid - n_recent))


def kept_indices(keep: Tensor, width: int | None = None) -> Tensor:
    """Slots of a kept set, ascending, -1 where a row keeps fewer than the longest row.

    Args:
        keep: bool `[..., key]`.
        width: the largest count over all rows, where it is known: else the device is asked for it.

    Returns:
        int64 `[..., width]`.
    """
    place = keep.cumsum(-1)  # [..., key], from 1
    if width is None:
        width = int(place.max()) if place.numel() else 0
    # What is not kept goes to column 0, which is then cut off: no sort.
    slots = keep.new_full((*keep.shape[:-1], width + 1), -1, dtype=torch.long)
    key = torch.arange(keep.shape[-1], device=keep.device).expand(keep.shape)  # [..., key]
    return slots.scatter_(-1, place.masked_fill_(~keep, 0), key)[..., 1:]


def kept_from_order(
    order: Tensor,
    n_valid: Tensor,
    budget: Tensor,
    sink: Tensor | int,
    recent: Tensor | int,
    width: int | None = None,
) -> Tensor:
    """`kept_indices(keep_from_order(...))`: int64 `[..., kept]`, ascending, -1 for unused entries."""
    return kept_indices(keep_from_order(order, n_valid, budget, sink, recent), width)


def select(
    scores: Tensor, valid: Tensor, budget: Tensor, recent: Tensor, sink: int, width: int | None = None
) -> Tensor:
    """The slots that one layer keeps.

    Args:
        scores: float `[batch, kv_head, key]`.
        valid: bool `[batch, key]` or `[batch, kv_head, key]`.
        budget: int64 `[batch]` or `[batch, kv_head]`, tokens.
        recent: int64, shaped like `budget`, tokens.
        sink: tokens.
        width: how many slots the row that keeps most keeps, where it is known: see `kept_indices`.

    Returns:
        int64 `[batch, kv_head, kept]`, ascending, -1 for unused entries.
    """
    if valid.dim() == 2:
        valid = valid[:, None, :]  # [batch, 1, key]
    valid = valid.expand(scores.shape)  # [batch, kv_head, key]
    if budget.dim() == 1:
        budget, recent = budget[:, None], recent[:, None]  # [batch, 1]
    order = order_by_score(scores, valid)  # [batch, kv_head, key]
    return kept_from_order(order, valid.sum(-1), budget, sink, recent, width)


def keep_from_positions(scores: Tensor, positions: Tensor, budget: Tensor, sink: int, recent: Tensor | None) -> Tensor:
    """The kept set of `select` for slots in any order, as a mask of static shape: nothing is asked of the host.

    A slot's bits of score and position together are one integer, which no two slots share, so that one sort of
    values ranks by score, ties by the later token, and the budget's last is a threshold.

    Args:
        scores: float32 `[..., slot]`, none negative.
        positions: int32 or int64 `[..., slot]`, below 2^31, -1 for empty slots.
        budget: int64, broadcastable to `[..., 1]`, tokens; at least 1, more than there are keeps all.
        sink: tokens.
        recent: int64, shaped like `budget`, tokens, or None for none.

    Returns:
        bool `[..., slot]`.
    """
    valid = positions >= 0  # [..., slot]
    n_valid = valid.sum(-1, keepdim=True)  # [..., 1]
    budget = torch.minimum(budget, n_valid)  # [..., 1]
    rank = (scores.contiguous().view(torch.int32).long() << 32) | positions.long()  # [..., slot]
    if sink or recent is not None:
        by_age = positions.sort(dim=-1).values  # [..., slot], empty slots first
        n_slots = positions.shape[-1]
        n_sink = budget.clamp(max=sink)  # [..., 1]
        last_sink = by_age.gather(-1, (n_slots - n_valid + n_sink - 1).clamp(0, n_slots - 1))
        safe = (positions <= last_sink) & (n_sink > 0)  # [..., slot]
        if recent is not None:
            n_recent = torch.minimum(recent, budget - n_sink)  # [..., 1]
            first_recent = by_age.gather(-1, (n_slots - n_recent).clamp(max=n_slots - 1))
            safe = safe | ((positions >= first_recent) & (n_recent > 0))
        rank = torch.where(safe, rank | _ABOVE_ALL_SCORES, rank)
    rank = torch.where(valid, rank, -1)
    last = rank.sort(dim=-1, descending=True).values.gather(-1, (budget - 1).clamp(min=0))  # [..., 1]
    return valid & (rank >= last)


def empty_slots(positions: Tensor, n: int) -> Tensor:
    """The first `n` empty slots, ascending: int64 `[..., n]`, zeros where there are fewer.

    Args:
        positions: `[..., slot]`, -1 for empty slots.
    """
    empty = positions < 0  # [..., slot]
    place = empty.cumsum(-1) - 1  # [..., slot]
    # What is not wanted goes to the last column, which is then cut off: no sort.
    place = torch.where(empty, place, n).clamp(max=n)
    slot = torch.arange(positions.shape[-1], device=positions.device).expand(positions.shape)
    found = torch.zeros(*positions.shape[:-1], n + 1, dtype=torch.long, device=positions.device)
    return found.scatter_(-1, place, slot)[..., :n]


def _column(count: Tensor | int, order: Tensor) -> Tensor:
    tensor = torch.as_tensor(count, device=order.device)
    return tensor.expand(order.shape[:-1]).unsqueeze(-1)  # [..., 1]
