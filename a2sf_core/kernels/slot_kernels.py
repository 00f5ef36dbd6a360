"""Decoding in Triton; `a2sf_core.kernels.decode` launches these.

`attend_kernel` reads keys and values once: the slots are split over programs (flash decoding), each leaves its maximum,
sum and weighted values, and `join_kernel` joins them. The new token is no slot yet: the first program of a head starts
from it, and stores it. Query heads of a group share what is loaded, padded to the 16 rows of a matrix unit.
`fold_kernel` reads the keys once for all queries of the ring and leaves nothing but scores.
"""

import triton
import triton.language as tl

# Below any logit, and finite, so that the difference of two is a number.
_LOWEST = tl.constexpr(-1e30)


@triton.jit
def attend_kernel(
    query,
    new_key,
    new_value,
    keys,
    values,
    positions,
    free,
    now,
    turn,
    out_values,
    out_maxima,
    out_sums,
    scale,
    group,
    capacity,
    n_free,
    dim,
    filled,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One share of one KV head's slots: maximum, sum and weighted values for each query head of its group."""
    pair = tl.program_id(0).to(tl.int64)  # batch * kv_heads + kv_head
    split = tl.program_id(1)
    rows, dims = tl.arange(0, GROUP), tl.arange(0, DIM)
    is_row, is_dim = rows < group, dims < dim
    at_rows = (pair * group + rows)[:, None] * dim + dims[None, :]
    q = tl.load(query + at_rows, mask=is_row[:, None] & is_dim[None, :], other=0.0)  # [GROUP, DIM]
    position = tl.load(now).to(tl.int32)
    slot = tl.load(free + pair * n_free + tl.load(turn))

    k = tl.load(new_key + pair * dim + dims, mask=is_dim, other=0.0)  # [DIM]
    v = tl.load(new_value + pair * dim + dims, mask=is_dim, other=0.0)
    is_first = split == 0
    own_logits = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], 1) * scale  # [GROUP]
    maximum = tl.where(is_first, own_logits, _LOWEST)
    total = tl.where(is_first, 1.0, 0.0) + tl.zeros([GROUP], tl.float32)
    mixed = tl.where(is_first, 1.0, 0.0) * (tl.zeros([GROUP, DIM], tl.float32) + v.to(tl.float32)[None, :])
    # Other programs may read the slot before or after these stores: they give it weight 0, and both are finite.
    if is_first:
        tl.store(keys + (pair * capacity + slot) * dim + dims, k, mask=is_dim)
        tl.store(values + (pair * capacity + slot) * dim + dims, v, mask=is_dim)
        tl.store(positions + pair * capacity + slot, position)

    # Room for tokens to come is not read. The rest is split evenly, in whole blocks.
    used = tl.maximum(slot.to(tl.int32) + 1, filled)
    per_split = tl.cdiv(tl.cdiv(used, SPLITS), BLOCK) * BLOCK
    start = split * per_split
    stop = tl.minimum(start + per_split, used)
    for first in range(start, stop, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        inside = slots < stop
        held = tl.load(positions + pair * capacity + slots, mask=inside, other=-1)
        seen = (held >= 0) & (slots != slot)
        if WINDOW > 0:
            seen = seen & (held > position - WINDOW)
        at_slots = (pair * capacity + slots)[:, None] * dim + dims[None, :]
        loads = inside[:, None] & is_dim[None, :]
        block = tl.load(keys + at_slots, mask=loads, other=0.0)  # [BLOCK, DIM]
        logits = tl.dot(q, tl.trans(block), input_precision="ieee") * scale  # [GROUP, BLOCK]
        logits = tl.where(seen[None, :], logits, _LOWEST)
        higher = tl.maximum(maximum, tl.max(logits, 1))
        probs = tl.where(seen[None, :], tl.exp(logits - higher[:, None]), 0.0)
        less = tl.exp(maximum - higher)
        total = total * less + tl.sum(probs, 1)
        block = tl.load(values + at_slots, mask=loads, other=0.0)
        mixed = mixed * less[:, None] + tl.dot(probs.to(block.dtype), block, input_precision="ieee")
        maximum = higher

    at_parts = (pair * group + rows) * SPLITS + split
    tl.store(out_maxima + at_parts, maximum, mask=is_row)
    tl.store(out_sums + at_parts, total, mask=is_row)
    tl.store(out_values + at_parts[:, None] * dim + dims[None, :], mixed, mask=is_row[:, None] & is_dim[None, :])


@triton.jit
def join_kernel(
    query,
    in_values,
    in_maxima,
    in_sums,
    output,
    now,
    ring_queries,
    ring_lse,
    ring_positions,
    heads,
    dim,
    splits,
    RING: tl.constexpr,
    SPLITS: tl.constexpr,
    DIM: tl.constexpr,
):
    """One query head: its shares joined, and its query noted in the ring."""
    row = tl.program_id(0).to(tl.int64)  # batch * heads + head
    parts, dims = tl.arange(0, SPLITS), tl.arange(0, DIM)
    is_part, is_dim = parts < splits, dims < dim
    maxima = tl.load(in_maxima + row * splits + parts, mask=is_part, other=_LOWEST)  # [SPLITS]
    sums = tl.load(in_sums + row * splits + parts, mask=is_part, other=0.0)
    at_parts = (row * splits + parts)[:, None] * dim + dims[None, :]
    values = tl.load(in_values + at_parts, mask=is_part[:, None] & is_dim[None, :], other=0.0)  # [SPLITS, DIM]
    maximum = tl.max(maxima, 0)
    weights = tl.exp(maxima - maximum)
    total = tl.sum(weights * sums, 0)
    mixed = tl.sum(values * weights[:, None], 0) / total  # [DIM]
    tl.store(output + row * dim + dims, mixed.to(output.dtype.element_ty), mask=is_dim)
    if RING > 0:
        position = tl.load(now)
        place = position % RING
        q = tl.load(query + row * dim + dims, mask=is_dim, other=0.0)
        tl.store(ring_queries + (row * RING + place) * dim + dims, q, mask=is_dim)
        tl.store(ring_lse + row * RING + place, maximum + tl.log(total))
        # All heads of a row store the same number.
        tl.store(ring_positions + (row // heads) * RING + place, position.to(tl.int32))


@triton.jit
def fold_kernel(
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
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    RING: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one KV head's slots: their scores from all queries of the ring."""
    pair = tl.program_id(0).to(tl.int64)  # batch * kv_heads + kv_head
    batch = pair // kv_heads
    slots = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    places, dims = tl.arange(0, RING), tl.arange(0, DIM)
    inside, is_place, is_dim = slots < capacity, places < size, dims < dim
    held = tl.load(positions + pair * capacity + slots, mask=inside, other=-1)  # [BLOCK]
    at_slots = (pair * capacity + slots)[:, None] * dim + dims[None, :]
    block = tl.load(keys + at_slots, mask=inside[:, None] & is_dim[None, :], other=0.0)  # [BLOCK, DIM]
    asked = tl.load(query_positions + batch * size + places, mask=is_place, other=-1)  # [RING]
    weight = tl.load(weights + batch * size + places, mask=is_place, other=0.0)
    seen = (held[:, None] >= 0) & (held[:, None] <= asked[None, :])  # [BLOCK, RING]
    if WINDOW > 0:
        seen = seen & (held[:, None] > asked[None, :] - WINDOW)
    new = tl.zeros([BLOCK], tl.float32)
    for member in range(GROUP):
        at_places = (pair * GROUP + member) * size + places  # [RING]
        q = tl.load(
            queries + at_places[:, None] * dim + dims[None, :], mask=is_place[:, None] & is_dim[None, :], other=0.0
        )
        own_lse = tl.load(lse + at_places, mask=is_place, other=0.0)
        logits = tl.dot(block, tl.trans(q), input_precision="ieee") * scale - own_lse[None, :]  # [BLOCK, RING]
        new += tl.sum(tl.where(seen, tl.exp(logits), 0.0) * weight[None, :], 1)
    at = pair * capacity + slots
    old = tl.load(scores + at, mask=inside, other=0.0) * tl.load(rest + batch)
    tl.store(scores + at, old + new, mask=inside)
