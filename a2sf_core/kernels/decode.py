"""The two operations of `a2sf_core.plain.slots` by Triton kernels, with the same signatures.

docs/gpu-decode.md says how fast they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from a2sf_core.kernels import blocks
from a2sf_core.kernels.slot_kernels import attend_kernel, fold_kernel, join_kernel
from a2sf_core.plain.slots import Ring, Slots, fold_weights

# Programs per multiprocessor: all run at once, so that no second wave fills the chip by half. Three fit on Hopper, with
# three stages of 16 KB of keys and as much of values each.
_PROGRAMS = 3


def attend(slots: Slots, query: Tensor, key: Tensor, value: Tensor, scale: float, sliding_window: int | None) -> Tensor:
    """See `slots.attend`. Keys and values must have one head size."""
    ring = slots.ring or Ring(*(query.new_empty(0) for _ in range(3)))
    return _launch_attend(
        query,
        key,
        value,
        slots.keys,
        slots.values,
        slots.positions,
        slots.free,
        slots.now,
        slots.turn,
        ring.queries,
        ring.lse,
        ring.positions,
        slots.filled,
        scale,
        sliding_window or 0,
    )


def fold(slots: Slots, alphas: Sequence[float], scale: float, sliding_window: int | None) -> None:
    """See `slots.fold`; each half-life reads the keys once."""
    ring = slots.ring
    assert ring is not None
    for alpha, scores in zip(alphas, slots.scores, strict=True):
        weights, rest = fold_weights(ring, slots.now, alpha)  # [batch, ring], [batch]
        _launch_fold(
            ring.queries,
            ring.lse,
            ring.positions,
            weights,
            rest,
            slots.keys,
            slots.positions,
            scores,
            scale,
            sliding_window or 0,
        )
    ring.positions.fill_(-1)


# As operators of torch, since torch.compile cannot look into every version of Triton.


@torch.library.custom_op(
    "a2sf::attend",
    mutates_args=("keys", "values", "positions", "ring_queries", "ring_lse", "ring_positions"),
)
def _launch_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    free: Tensor,
    now: Tensor,
    turn: Tensor,
    ring_queries: Tensor,
    ring_lse: Tensor,
    ring_positions: Tensor,
    filled: int,
    scale: float,
    window: int,
) -> Tensor:
    batch, kv_heads, capacity, dim = keys.shape
    heads, block = query.shape[1], blocks.streamed_rows(keys)
    splits = _splits(batch * kv_heads, triton.cdiv(capacity, block), query.device)
    mixed = query.new_empty(batch, heads, splits, dim, dtype=torch.float32)
    maxima = query.new_empty(batch, heads, splits, dtype=torch.float32)
    sums = torch.empty_like(maxima)
    query = query.contiguous()
    output = torch.empty_like(query)
    attend_kernel[(batch * kv_heads, splits)](
        query,
        key.contiguous(),
        value.contiguous(),
        keys,
        values,
        positions,
        free,
        now,
        turn,
        mixed,
        maxima,
        sums,
        scale,
        heads // kv_heads,
        capacity,
        free.shape[-1],
        dim,
        filled,
        SPLITS=splits,
        WINDOW=window,
        GROUP=max(16, triton.next_power_of_2(heads // kv_heads)),
        DIM=blocks.width(dim),
        BLOCK=block,
    )
    join_kernel[(batch * heads,)](
        query,
        mixed,
        maxima,
        sums,
        output,
        now,
        ring_queries,
        ring_lse,
        ring_positions,
        heads,
        dim,
        splits,
        RING=ring_positions.shape[-1],
        SPLITS=triton.next_power_of_2(splits),
        DIM=blocks.width(dim),
    )
    return output


@_launch_attend.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("a2sf::fold", mutates_args=("scores",))
def _launch_fold(
    queries: Tensor,
    lse: Tensor,
    query_positions: Tensor,
    weights: Tensor,
    rest: Tensor,
    keys: Tensor,
    positions: Tensor,
    scores: Tensor,
    scale: float,
    window: int,
) -> None:
    batch, kv_heads, capacity, dim = keys.shape
    size, block = query_positions.shape[1], blocks.streamed_rows(keys)
    fold_kernel[(batch * kv_heads, triton.cdiv(capacity, block))](
        queries,
        lse,
        query_positions,
        weights,
        rest,
        keys,
        positions,
        scores,
        scale,
        kv_heads,
        capacity,
        dim,
        size,
        GROUP=queries.shape[1] // kv_heads,
        WINDOW=window,
        RING=max(16, triton.next_power_of_2(size)),
        DIM=blocks.width(dim),
        BLOCK=block,
    )


@_launch_fold.register_fake
def _(*_: Any) -> None:
    return None


def _splits(pairs: int, n_blocks: int, device: torch.device) -> int:
    # In the interpreter several, so that there is something to join even in a small test.
    processors = blocks.multiprocessors(device) if device.type == "cuda" else 4
    return max(1, min(_PROGRAMS * processors // pairs, n_blocks))
