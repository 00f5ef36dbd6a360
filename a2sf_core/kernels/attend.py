"""Attention under the general rule of a `Span`, with its log-sum-exp; or the log-sum-exp alone.

For what the library's own attention does not serve: pruned caches, chunks of a prompt, sliding windows, padding,
float32. It needs no n x n mask. A program owns a block of queries of one head and walks over the keys.
"""

from __future__ import annotations

from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from a2sf_core.kernels import blocks
from a2sf_core.plain.span import Span

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _attend_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    key_pos: tl.tensor,
    first_block: tl.tensor,
    stop_block: tl.tensor,
    lse: tl.tensor,
    output: tl.tensor,
    query_batch: tl.tensor,
    query_head: tl.tensor,
    query_row: tl.tensor,
    key_batch: tl.tensor,
    key_head: tl.tensor,
    key_row: tl.tensor,
    value_batch: tl.tensor,
    value_head: tl.tensor,
    value_row: tl.tensor,
    output_batch: tl.tensor,
    output_head: tl.tensor,
    output_row: tl.tensor,
    pos_batch: tl.tensor,
    pos_head: tl.tensor,
    pos_row: tl.tensor,
    batch: tl.tensor,
    kv_heads: tl.tensor,
    n: tl.tensor,
    n_keys: tl.tensor,
    query_start: tl.tensor,
    window: tl.tensor,
    scale_log2: tl.tensor,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOWED: tl.constexpr,
    WITH_OUTPUT: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    # Late queries see the most keys: their programs come first, so that the last ones to run are short.
    heads = kv_heads * GROUP
    n_blocks = tl.cdiv(n, BLOCK_QUERIES)
    block = n_blocks - 1 - tl.program_id(0) // (batch * heads)
    lane = tl.program_id(0) % (batch * heads)
    head = lane % heads
    kv_head = head // GROUP
    row = lane // heads

    dims = tl.arange(0, WIDTH)
    in_dim = (dims < DIM)[None, :]
    columns = tl.arange(0, BLOCK_KEYS)
    queries = block.to(tl.int64) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    exists = queries < n
    query_pos = query_start + queries.to(tl.int32)  # [query]
    query += row.to(tl.int64) * query_batch + head.to(tl.int64) * query_head
    q = tl.load(query + queries[:, None] * query_row + dims[None, :], mask=exists[:, None] & in_dim, other=0.0)
    key += row.to(tl.int64) * key_batch + kv_head.to(tl.int64) * key_head
    value += row.to(tl.int64) * value_batch + kv_head.to(tl.int64) * value_head
    key_pos += row.to(tl.int64) * pos_batch + kv_head.to(tl.int64) * pos_head

    bound = (row * kv_heads + kv_head) * n_blocks + block
    top = tl.full((BLOCK_QUERIES,), float("-inf"), dtype=tl.float32)
    mass = tl.zeros((BLOCK_QUERIES,), dtype=tl.float32)
    mixed = tl.zeros((BLOCK_QUERIES, WIDTH), dtype=tl.float32)  # [query, dim]
    for step in range(tl.load(first_block + bound), tl.load(stop_block + bound)):
        start = step * BLOCK_KEYS
        held = start + columns < n_keys
        pos = tl.load(key_pos + (start.to(tl.int64) + columns) * pos_row, mask=held, other=-1).to(tl.int32)  # [key]
        tile = start.to(tl.int64) * key_row + columns[:, None] * key_row + dims[None, :]
        k = tl.load(key + tile, mask=held[:, None] & in_dim, other=0.0)  # [key, dim]
        seen = (pos >= 0)[None, :] & (pos[None, :] <= query_pos[:, None])  # [query, key]
        if WINDOWED:
            seen = seen & (pos[None, :] > query_pos[:, None] - window)
        logits = tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale_log2
        logits = tl.where(seen, logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        # A row that has seen nothing yet has no maximum; anything finite keeps it free of NaN.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        probs = tl.exp2(logits - base[:, None])
        shrink = tl.exp2(top - base)
        mass = mass * shrink + tl.sum(probs, 1)
        top = new_top
        if WITH_OUTPUT:
            tile = start.to(tl.int64) * value_row + columns[:, None] * value_row + dims[None, :]
            v = tl.load(value + tile, mask=held[:, None] & in_dim, other=0.0)  # [key, dim]
            mixed = tl.dot(probs.to(v.dtype), v, mixed * shrink[:, None], input_precision="tf32x3")
    some = mass > 0
    mass = tl.where(some, mass, 1.0)
    norm = tl.where(some, (top + tl.log2(mass)) * _LN_2, float("inf"))
    tl.store(lse + (row * heads + head).to(tl.int64) * n + queries, norm, mask=exists)
    if WITH_OUTPUT:
        output += row.to(tl.int64) * output_batch + head.to(tl.int64) * output_head
        tl.store(
            output + queries[:, None] * output_row + dims[None, :],
            (mixed / mass[:, None]).to(output.dtype.element_ty),
            mask=exists[:, None] & in_dim,
        )


def attend(query: Tensor, key: Tensor, value: Tensor | None, scale: float, span: Span) -> tuple[Tensor | None, Tensor]:
    """Attention and its log-sum-exp.

    Args:
        query: `[batch, head, query, dim]`; bfloat16, float16 or float32.
        key: `[batch, kv_head, key, dim]` in the dtype of `query`.
        value: like `key`, or None if no output is wanted.
        scale: factor of the dot product.
        span: where queries and keys stand; `query_valid` is not looked at.

    Returns:
        `[batch, head, query, dim]` in the dtype of `query`, or None; and float32 `[batch, head, query]`, natural
        logarithm. A query that sees nothing has output 0 and log-sum-exp infinity.
    """
    batch, heads, n, dim = query.shape
    kv_heads, n_keys = key.shape[1:3]
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    lse = torch.empty(batch, heads, n, device=query.device)
    output = None
    if value is not None:
        value = value if value.stride(-1) == 1 else value.contiguous()
        # In memory `[batch, query, head, dim]`, which is how the caller hands it on.
        output = query.new_empty(batch, n, heads, dim).transpose(1, 2)
    queries, keys = blocks.held_rows(query), blocks.streamed_rows(query)
    first, stop = key_blocks(span, n, queries, keys)
    # What is not wanted is never touched; the kernel just has to be given a tensor.
    values, outputs = (key, query) if value is None or output is None else (value, output)
    arguments = (
        *(query, key, values, span.key_pos, first, stop, lse, outputs),
        *query.stride()[:3],
        *key.stride()[:3],
        *values.stride()[:3],
        *outputs.stride()[:3],
        *span.key_pos.stride(),
        *(batch, kv_heads, n, n_keys),
        *(span.query_start, span.sliding_window or 0, scale * log2(e)),
    )
    constants = {
        "GROUP": heads // kv_heads,
        "DIM": dim,
        "WIDTH": blocks.width(dim),
        "WINDOWED": span.sliding_window is not None,
        "WITH_OUTPUT": value is not None,
        "BLOCK_KEYS": keys,
    }
    blocks.launch(
        _attend_kernel,
        query,
        "BLOCK_QUERIES",
        queries,
        lambda rows: triton.cdiv(n, rows) * batch * heads,
        arguments,
        constants,
        (value is not None, blocks.bucket(n_keys)),
    )
    return output, lse


def key_blocks(span: Span, n: int, block_queries: int, block_keys: int) -> tuple[Tensor, Tensor]:
    """Which blocks of keys the blocks of `n` queries may see: from the first one up to, not including, the second.

    Right for positions in any order, and tight where they ascend, as they do in a cache.

    Returns:
        int32 `[batch, kv_head, query block]` twice.
    """
    key_pos = torch.nn.functional.pad(span.key_pos, (0, -span.key_pos.shape[-1] % block_keys), value=-1)
    tiles = key_pos.int().unflatten(-1, (-1, block_keys))  # [batch, kv_head, key block, key]
    newest = tiles.amax(-1).unsqueeze(-2)  # [batch, kv_head, 1, key block]
    oldest = tiles.masked_fill(tiles < 0, torch.iinfo(torch.int32).max).amin(-1).unsqueeze(-2)
    first_pos = span.query_start + torch.arange(0, n, block_queries, device=key_pos.device)[:, None]  # [query block, 1]
    seen = oldest <= (first_pos + block_queries - 1).clamp(max=span.query_start + n - 1)
    if span.sliding_window is not None:
        seen = seen & (newest > first_pos - span.sliding_window)  # [batch, kv_head, query block, key block]
    index = torch.arange(tiles.shape[-2], dtype=torch.int32, device=key_pos.device)  # [key block]
    stop = torch.where(seen, index + 1, 0).amax(-1)
    return torch.where(seen, index, stop.unsqueeze(-1)).amin(-1), stop
