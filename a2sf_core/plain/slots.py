"""Buffers of static shape for one decoded token at a time, and what is done with them, in plain torch.

Slots are in no order: a token that goes leaves a hole that a later token fills, so that eviction moves no keys and
no values. `positions` alone says what a slot holds.

Scores need not be kept up at every token. A query's probabilities can be had again later from the query, the
log-sum-exp of its logits and the keys, as long as none of these has gone; so the last queries are held in a ring and
scored together, in one pass over the keys, at the latest when tokens are about to go. Until then a step is plain
attention, and touches nothing but keys, values and positions.

`a2sf_core.kernels.decode` does the same with Triton; this is the reference and the fallback. All of it is free of
host synchronisation and of copies from the host, so that CUDA graphs can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Ring:
    """The last queries of a layer; the query at position p stands at p modulo the size.

    Attributes:
        queries: `[batch, head, ring, dim]`.
        lse: float32 `[batch, head, ring]`, log-sum-exp of each query's logits when it attended.
        positions: int32 `[batch, ring]`, -1 for places that hold no query.
    """

    queries: Tensor
    lse: Tensor
    positions: Tensor


@dataclass
class Slots:
    """One layer's cache while decoding, for KV heads with one budget.

    Attributes:
        keys, values: `[batch, kv_head, slot, dim]`.
        positions: int32 `[batch, kv_head, slot]`, logical position, -1 for an empty slot.
        free: int64 `[batch, kv_head, n]`, the slots for the next tokens, in turn.
        scores: float32 `[batch, kv_head, slot]`, zero in empty slots, one for each half-life that is kept up.
        ring: the last queries, None if nothing is scored.
        filled: slots from this one on are taken in their order, so that whatever lies beyond the newest is empty.
        now: int64 `[1]`, position of the next token; shared by all layers, as is
        turn: int64 `[1]`, which of `free` it takes.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    free: Tensor
    scores: tuple[Tensor, ...]
    ring: Ring | None
    filled: int
    now: Tensor
    turn: Tensor


def attend(slots: Slots, query: Tensor, key: Tensor, value: Tensor, scale: float, sliding_window: int | None) -> Tensor:
    """Take in one token, attend over all, and note the query in the ring.

    Args:
        query: `[batch, head, 1, dim]`.
        key, value: `[batch, kv_head, 1, dim]`.
        scale: factor of the dot product.
        sliding_window: a query at p sees p - sliding_window + 1 .. p; None for all.

    Returns:
        `[batch, head, 1, dim]`.
    """
    batch, kv_heads, _, dim = key.shape
    slot = slots.free.index_select(2, slots.turn)  # [batch, kv_head, 1]
    now = slots.now.to(torch.int32)  # [1]
    slots.keys.scatter_(2, slot.unsqueeze(-1).expand(-1, -1, 1, dim), key)
    slots.values.scatter_(2, slot.unsqueeze(-1).expand(-1, -1, 1, value.shape[-1]), value)
    slots.positions.scatter_(2, slot, now.expand(batch, kv_heads, 1))

    hidden = ~_visible(slots.positions, now, sliding_window).unsqueeze(2)  # [batch, kv_head, 1, slot]
    grouped = query.float().reshape(batch, kv_heads, -1, dim) * scale  # [batch, kv_head, group, dim]
    logits = grouped @ slots.keys.float().transpose(-1, -2)  # [batch, kv_head, group, slot]
    logits = logits.masked_fill(hidden, float("-inf"))  # no row is all hidden: a token sees itself
    lse = logits.logsumexp(-1)  # [batch, kv_head, group]
    output = (logits - lse.unsqueeze(-1)).exp() @ slots.values.float()  # [batch, kv_head, group, dim]
    if slots.ring is not None:
        place = slots.now % slots.ring.positions.shape[1]  # [1]
        slots.ring.queries.index_copy_(2, place, query)
        slots.ring.lse.index_copy_(2, place, lse.view(batch, -1, 1))
        slots.ring.positions.index_copy_(1, place, now.expand(batch, 1))
    return output.view(batch, -1, 1, value.shape[-1]).to(query.dtype)


def fold(slots: Slots, alphas: Sequence[float], scale: float, sliding_window: int | None) -> None:
    """Score the ring's queries by the recurrence A(n + m) = alpha^m * A(n) + (the m new queries), and empty it.

    `alphas` are one for each of the slots' scores.
    """
    ring = slots.ring
    assert ring is not None
    logits = _ring_logits(slots, ring, scale)  # [batch, kv_head, group, ring, slot]
    lse = ring.lse.view(logits.shape[:-1]).unsqueeze(-1)  # [batch, kv_head, group, ring, 1]
    probs = (logits - lse).exp_().masked_fill_(_hidden_from_ring(slots, ring, sliding_window), 0).sum(2)
    for alpha, scores in zip(alphas, slots.scores, strict=True):
        weights, rest = fold_weights(ring, slots.now, alpha)  # [batch, ring], [batch]
        new = (probs * weights[:, None, :, None]).sum(2)  # [batch, kv_head, slot]
        scores.mul_(rest[:, None, None]).add_(new)
    ring.positions.fill_(-1)


def fold_weights(ring: Ring, now: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """What each query of the ring counts, `[batch, ring]`, and what the old scores do, `[batch]`: both float32."""
    held = ring.positions >= 0  # [batch, ring]
    age = now - 1 - ring.positions  # [batch, ring]
    weights = torch.where(held, torch.pow(alpha, age.double()), 0.0)  # 0^0 = 1
    return weights.float(), torch.pow(alpha, held.sum(-1).double()).float()


def window_scores(slots: Slots, n_queries: int, scale: float, sliding_window: int | None) -> Tensor:
    """The plain attention sum of the ring's last queries over what is held now: float32 `[batch, kv_head, slot]`.

    A window outlives evictions, so the log-sum-exp of its older queries is that of keys which have gone since.
    """
    ring = slots.ring
    assert ring is not None
    older = ring.positions < slots.now - n_queries  # [batch, ring]
    hidden = _hidden_from_ring(slots, ring, sliding_window) | older[:, None, None, :, None]
    logits = _ring_logits(slots, ring, scale).masked_fill_(hidden, torch.finfo(torch.float32).min)
    return logits.softmax(-1).masked_fill_(hidden, 0).sum((2, 3))


def _ring_logits(slots: Slots, ring: Ring, scale: float) -> Tensor:
    queries = ring.queries.float().unflatten(1, (slots.keys.shape[1], -1)) * scale  # [batch, kv_head, group, ring, dim]
    return queries @ slots.keys.float().transpose(-1, -2).unsqueeze(2)  # [batch, kv_head, group, ring, slot]


def _hidden_from_ring(slots: Slots, ring: Ring, sliding_window: int | None) -> Tensor:
    at = ring.positions[:, None, :, None]  # [batch, 1, ring, 1]
    positions = slots.positions.unsqueeze(2)  # [batch, kv_head, 1, slot]
    return ~_visible(positions, at, sliding_window).unsqueeze(2)  # [batch, kv_head, 1, ring, slot]


def _visible(positions: Tensor, at: Tensor, sliding_window: int | None) -> Tensor:
    seen = (positions >= 0) & (positions <= at)
    return seen if sliding_window is None else seen & (positions > at - sliding_window)
