"""Scores from queries, keys and the log-sum-exp of their attention: the columns of a matrix that is never stored.

A program owns a block of keys and walks over the blocks of queries that see it, oldest first:

    P^T = exp(K Q^T * scale - lse)          [key, query]
    S   = alpha^block * S + P^T W           [key, half-life], W = alpha^(last query of the block - q)

This is the recurrence of `a2sf_core.scores` with a block as its step, so W is the same for all blocks and computed
once, and powers of alpha beyond one block are products of float32 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, e, inf, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from a2sf_core.kernels import blocks
from a2sf_core.plain.forgetting import queries_that_matter
from a2sf_core.plain.span import Span

_LOG2_E = tl.constexpr(1.4426950408889634)
_FAR = tl.constexpr(2**31 - 1)

# Probabilities and weights of half-precision inputs are multiplied as float16: three more bits than bfloat16.
# Times 2^15 a probability of 1 still fits, and one of 2e-9 is still a normal number.
_SHIFT = tl.constexpr(15.0)

# 2^-2000 is 0 in any format: what stands for log2(0).
_LOG2_ZERO = -2000.0

# Programs per multiprocessor below which the query heads of a group are shared out among programs. Programs of
# old keys work longest, so an even load takes several per multiprocessor.
_FULL = 4


@triton.jit
def _column_kernel(
    query: tl.tensor,
    key: tl.tensor,
    lse: tl.tensor,
    key_pos: tl.tensor,
    log2_alpha: tl.tensor,
    scores: tl.tensor,
    query_batch: tl.tensor,
    query_head: tl.tensor,
    query_row: tl.tensor,
    key_batch: tl.tensor,
    key_head: tl.tensor,
    key_row: tl.tensor,
    lse_batch: tl.tensor,
    lse_head: tl.tensor,
    pos_batch: tl.tensor,
    pos_head: tl.tensor,
    pos_row: tl.tensor,
    batch: tl.tensor,
    kv_heads: tl.tensor,
    n: tl.tensor,
    n_keys: tl.tensor,
    half_lives: tl.tensor,
    last_pos: tl.tensor,
    window: tl.tensor,
    scale_log2: tl.tensor,
    GROUP: tl.constexpr,
    SHARE: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    WINDOWED: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    # Old keys have the most queries: their programs come first, so that the last ones to run are short.
    parts: tl.constexpr = GROUP // SHARE
    lanes = batch * kv_heads * parts
    block = tl.program_id(0) // lanes
    lane = tl.program_id(0) % lanes
    part = lane % parts
    kv_head = lane // parts % kv_heads
    row = lane // parts // kv_heads

    dims = tl.arange(0, WIDTH)
    keys = block.to(tl.int64) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    held = keys < n_keys
    key += row.to(tl.int64) * key_batch + kv_head.to(tl.int64) * key_head
    k = tl.load(
        key + keys[:, None] * key_row + dims[None, :], mask=held[:, None] & (dims[None, :] < DIM), other=0.0
    )  # [key, dim]
    key_pos += row.to(tl.int64) * pos_batch + kv_head.to(tl.int64) * pos_head
    pos = tl.load(key_pos + keys * pos_row, mask=held, other=-1).to(tl.int32)  # [key]
    newest = tl.max(pos, 0)
    oldest = tl.min(tl.where(pos >= 0, pos, _FAR), 0)

    # Blocks of queries are counted so that the last one ends with the last query. `first` is the first with a query
    # that sees a key here, from `whole` on all queries see all keys here, before `stop` some key is in the window.
    n_blocks = tl.cdiv(n, BLOCK_QUERIES)
    first = tl.maximum(n_blocks - tl.maximum(last_pos - oldest + BLOCK_QUERIES, 0) // BLOCK_QUERIES, 0)
    whole = tl.maximum(n_blocks - tl.maximum(last_pos + 1 - newest, 0) // BLOCK_QUERIES, first)
    stop = n_blocks
    if WINDOWED:
        gone = tl.maximum(last_pos + 2 - newest - window, 0)
        stop = tl.maximum(tl.minimum(n_blocks, n_blocks + 1 - tl.cdiv(gone, BLOCK_QUERIES)), first)
        whole = stop

    columns = tl.arange(0, COLUMNS)
    rows = tl.arange(0, BLOCK_QUERIES)
    power = tl.load(log2_alpha + columns, mask=columns < half_lives, other=0.0)  # [half-life]
    weights = tl.exp2(power[None, :] * (BLOCK_QUERIES - 1 - rows)[:, None].to(tl.float32))  # [query, half-life]
    shift = 0.0
    if COLUMNS > 1 and k.dtype != tl.float32:
        weights = weights.to(tl.float16)
        shift = _SHIFT
    step = tl.exp2(power * BLOCK_QUERIES)  # [half-life]

    head = kv_head * GROUP + part * SHARE
    query += row.to(tl.int64) * query_batch + head.to(tl.int64) * query_head
    lse += row.to(tl.int64) * lse_batch + head.to(tl.int64) * lse_head
    total = tl.zeros((BLOCK_KEYS, COLUMNS), dtype=tl.float32)
    for phase in tl.static_range(2):  # tiles that need a mask, then tiles that do not
        begin = first if phase == 0 else whole
        end = whole if phase == 0 else stop
        for turn in range(begin * SHARE, end * SHARE):
            sharer = turn % SHARE  # query heads of one block of queries come one after the other
            start = n - (n_blocks - turn // SHARE) * BLOCK_QUERIES  # below 0 in the first block
            tile = query + sharer.to(tl.int64) * query_head + start.to(tl.int64) * query_row
            exists = rows >= -start
            q = tl.load(
                tile + rows[:, None] * query_row + dims[None, :],
                mask=exists[:, None] & (dims[None, :] < DIM),
                other=0.0,
            )  # [query, dim]
            # A query that is padding, or none at all, has an infinite log-sum-exp: its probabilities are 0.
            norm = tl.load(lse + sharer.to(tl.int64) * lse_head + start + rows, mask=exists, other=float("inf"))
            logits = tl.dot(k, tl.trans(q), input_precision="tf32x3") * scale_log2  # [key, query]
            if phase == 0:
                query_pos = last_pos - (n - 1) + start + rows  # [query]
                seen = pos[:, None] <= query_pos[None, :]
                if WINDOWED:
                    seen = seen & (pos[:, None] > query_pos[None, :] - window)
                logits = tl.where(seen, logits, float("-inf"))
            probs = tl.exp2(logits - (norm * _LOG2_E - shift)[None, :])  # [key, query]
            total = total * tl.where(sharer == 0, step, 1.0)[None, :]
            if COLUMNS > 1:
                total = tl.dot(probs.to(weights.dtype), weights, total, input_precision="tf32x3")
            else:
                total += tl.sum(probs * tl.trans(weights), 1)[:, None]
    total = total * tl.exp2(power * (BLOCK_QUERIES * (n_blocks - stop)) - shift)[None, :]
    # Slots that hold no token were never masked: what they have added up is theirs alone, and is thrown away here.
    total = tl.where((pos >= 0)[:, None], total, 0.0)
    plane = (part * half_lives + columns).to(tl.int64) * batch + row  # [half-life]
    tl.store(
        scores + (plane * kv_heads + kv_head)[None, :] * n_keys + keys[:, None],
        total,
        mask=held[:, None] & (columns < half_lives)[None, :],
    )


def column_scores(
    query: Tensor, key: Tensor, lse: Tensor, half_lives: Sequence[float], scale: float, span: Span
) -> Tensor:
    """What `a2sf_core.scores.score` returns, given the log-sum-exp.

    Args:
        query: `[batch, head, query, dim]`, at least one query; bfloat16, float16 or float32.
        key: `[batch, kv_head, key, dim]` in the dtype of `query`.
        lse: float32 `[batch, head, query]`, natural logarithm; infinite where a query sees nothing.
        half_lives: tokens, one per score wanted.
        scale: factor of the dot product.
        span: where queries and keys stand.

    Returns:
        float32 `[half_life, batch, kv_head, key]`.
    """
    batch, heads, n, dim = query.shape
    kv_heads, n_keys = key.shape[1:3]
    group = heads // kv_heads
    if not half_lives:
        return torch.zeros(0, batch, kv_heads, n_keys, device=query.device)
    last_pos = span.query_start + n - 1
    if span.query_valid is not None:
        lse = lse.masked_fill(~span.query_valid[:, None], inf)  # [batch, head, query]
    reach = max(queries_that_matter(h, group) for h in half_lives)
    if reach < n:
        n = ceil(reach)
        query, lse = query[:, :, -n:], lse[..., -n:]
    query, key, lse = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, lse))

    share = _share(group, triton.cdiv(n_keys, 128) * batch * kv_heads, blocks.multiprocessors(query.device))
    parts = group // share
    # A matrix unit takes 16 columns at least. One alone is a sum over queries instead, in float32.
    columns = 1 if len(half_lives) == 1 else max(16, triton.next_power_of_2(len(half_lives)))
    powers = [_LOG2_ZERO if h == 0 else max(_LOG2_ZERO, -1 / h) for h in half_lives]
    log2_alpha = _on_device(tuple(powers), query.device)  # [half_life]
    scores = torch.empty(parts, len(half_lives), batch, kv_heads, n_keys, device=query.device)
    arguments = (
        *(query, key, lse, span.key_pos, log2_alpha, scores),
        *query.stride()[:3],
        *key.stride()[:3],
        *lse.stride()[:2],
        *span.key_pos.stride(),
        *(batch, kv_heads, n, n_keys, len(half_lives)),
        *(last_pos, span.sliding_window or 0, scale * log2(e)),
    )
    constants = {
        "GROUP": group,
        "SHARE": share,
        "DIM": dim,
        "WIDTH": blocks.width(dim),
        "COLUMNS": columns,
        "WINDOWED": span.sliding_window is not None,
        "BLOCK_QUERIES": blocks.streamed_rows(query),
    }
    blocks.launch(
        _column_kernel,
        query,
        "BLOCK_KEYS",
        None,
        lambda rows: triton.cdiv(n_keys, rows) * batch * kv_heads * parts,
        arguments,
        constants,
        (columns, blocks.bucket(n)),
    )
    return scores[0] if parts == 1 else scores.sum(0)


@lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept, because a copy to the device makes the host wait: once per layer otherwise.
    return torch.tensor(values, dtype=torch.float32, device=device)


def _share(group: int, programs: int, multiprocessors: int) -> int:
    """Query heads per program: the whole group, or fewer where that would leave multiprocessors idle.

    Their scores are then added by a sum of its own rather than by atomics, whose order changes from run to run.
    """
    divisors = [s for s in range(group, 0, -1) if group % s == 0]
    return next((s for s in divisors if programs * (group // s) >= _FULL * multiprocessors), 1)
