"""The entry points of `a2sf_core.scores` in plain PyTorch, on any device. They take and return the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import torch
from torch import Tensor

from a2sf_core.plain.forgetting import queries_that_matter, query_weights
from a2sf_core.plain.span import Span

# Tiles of query rows x keys that stay in the L2 cache of a CPU core; found with benchmarks/scoring.py.
_TILE_QUERIES = 128
_TILE_KEYS = 256

# Floats in the score block of the general path, which holds whole rows of keys: 16 MB.
_BLOCK_FLOATS = 4_000_000


def score(query: Tensor, key: Tensor, half_lives: Sequence[float], scale: float, span: Span) -> Tensor:
    """`a2sf_core.scores.score`."""
    return _rows(query, key, None, half_lives, scale, span)[1]


def attend_and_score(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, span: Span
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score`."""
    output, scores = _rows(query, key, value, half_lives, scale, span)
    assert output is not None
    return output, scores


def attend_and_score_causal(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score_causal`."""
    batch, kv_heads, n, _ = key.shape
    if not _has_flash_with_lse(query, value):
        pos = torch.arange(n, device=key.device).expand(batch, kv_heads, n)
        return attend_and_score(query, key, value, half_lives, scale, Span(0, pos))
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, scale=scale
    )  # [batch, head, query, dim], [batch, head, query]
    return output, _causal_tiles(query, key, lse, half_lives, scale)


def attend_and_score_left_padded(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score_left_padded`: each row by the causal case."""
    output = torch.zeros_like(query[..., : value.shape[-1]])  # [batch, head, query, dim]
    scores = torch.zeros(len(half_lives), *key.shape[:3], device=key.device)  # [half_life, batch, kv_head, key]
    for row, padded in enumerate((~valid).sum(-1).tolist()):
        own = (slice(row, row + 1), slice(None), slice(padded, None))
        output[own], scores[:, row : row + 1, :, padded:] = attend_and_score_causal(
            query[own], key[own], value[own], half_lives, scale
        )
    return output, scores


def _has_flash_with_lse(query: Tensor, value: Tensor) -> bool:
    # A private operator: the only one on CPU that returns the log-sum-exp which attention computes anyway.
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1]
        and query.shape[2] > 1
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    )


def _causal_tiles(query: Tensor, key: Tensor, lse: Tensor, half_lives: Sequence[float], scale: float) -> Tensor:
    batch, heads, n, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    # Longest memory first: the half-lives that still matter in a block of old queries are then a prefix.
    by_memory = sorted(range(len(half_lives)), key=lambda g: -half_lives[g])
    reach = [queries_that_matter(half_lives[g], group) for g in by_memory]
    weights = query_weights([half_lives[g] for g in by_memory], n, query.device)  # [half_life, query]
    scores = torch.zeros(batch, kv_heads, len(half_lives), n, device=query.device)

    # One matmul gives log-probabilities: [q * scale, -lse] . [k, 1] = s - lse. As many KV heads go into one call
    # as there are cores: one tile in the cache of each.
    cores = min(kv_heads, torch.get_num_threads())
    keys = torch.empty(cores, dim + 1, n, device=query.device)
    rows = torch.empty(cores, group, _TILE_QUERIES, dim + 1, device=query.device)
    tile = torch.empty(cores * group * _TILE_QUERIES * _TILE_KEYS, device=query.device)
    above = torch.ones(_TILE_QUERIES, _TILE_QUERIES, dtype=torch.bool, device=query.device).triu_(1)
    for b, first in product(range(batch), range(0, kv_heads, cores)):
        some = slice(first, min(first + cores, kv_heads))
        heads_here = some.stop - first
        grouped = query[b].unflatten(0, (kv_heads, group))[some]  # [some kv_head, group, query, dim]
        grouped_lse = lse[b].unflatten(0, (kv_heads, group))[some]  # [some kv_head, group, query]
        keys[:heads_here, :dim] = key[b, some].transpose(-1, -2)
        keys[:, dim] = 1
        for start in range(0, n, _TILE_QUERIES):
            stop = min(start + _TILE_QUERIES, n)
            live = sum(n - stop < r for r in reach)
            if live == 0:
                continue
            size = stop - start
            block = rows[:heads_here, :, :size]  # [some kv_head, group, query, dim + 1]
            torch.mul(grouped[:, :, start:stop], scale, out=block[..., :dim])
            torch.neg(grouped_lse[:, :, start:stop], out=block[..., dim])
            flat = block.reshape(heads_here, group * size, dim + 1)
            weight = weights[:live, start:stop].repeat(1, group)  # [half_life, group * query]
            weight = weight.expand(heads_here, live, group * size)
            # The block on the diagonal is a tile of its own, and the only one that needs a mask.
            edges = [*range(0, start, _TILE_KEYS), start, stop]
            for left, right in pairwise(edges):
                probs = tile[: heads_here * group * size * (right - left)]
                probs = probs.view(heads_here, group * size, right - left)
                torch.bmm(flat, keys[:heads_here, :, left:right], out=probs)
                probs.exp_()
                if right == stop:
                    probs.view(heads_here, group, size, size).masked_fill_(above[:size, :size], 0)
                scores[b, some, :live, left:right].baddbmm_(weight, probs)
    original = torch.empty(len(half_lives), batch, kv_heads, n, device=query.device)
    original[by_memory] = scores.permute(2, 0, 1, 3)
    return original


def _rows(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    half_lives: Sequence[float],
    scale: float,
    span: Span,
) -> tuple[Tensor | None, Tensor]:
    batch, heads, n, dim = query.shape
    kv_heads, n_keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    reach = max((queries_that_matter(h, group) for h in half_lives), default=0)
    weights = query_weights(half_lives, n, query.device)  # [half_life, query]
    scores = torch.zeros(len(half_lives), batch, kv_heads, n_keys, device=query.device)
    output = None if value is None else query.new_empty(batch, heads, n, value.shape[-1])
    keys = key.float().transpose(-1, -2).unsqueeze(2)  # [batch, kv_head, 1, dim, key]
    values = None if value is None else value.float().unsqueeze(2)  # [batch, kv_head, 1, key, dim]

    size = max(1, min(n, _BLOCK_FLOATS // max(1, batch * heads * n_keys)))
    for start in range(0, n, size):
        stop = min(start + size, n)
        matters = n - stop < reach
        if output is None and not matters:
            continue
        block = query[:, :, start:stop].float().view(batch, kv_heads, group, stop - start, dim)
        logits = block.mul(scale) @ keys  # [batch, kv_head, group, query, key]
        hidden = ~span.visible(start, stop).unsqueeze(2)  # [batch, kv_head, 1, query, key]
        # A finite filler keeps rows that see nothing (padded queries) free of NaN.
        probs = logits.masked_fill_(hidden, torch.finfo(torch.float32).min).softmax(-1)
        if output is not None and values is not None:
            output[:, :, start:stop] = (probs @ values).view(batch, heads, stop - start, -1).to(query.dtype)
        if not matters:
            continue
        probs = probs.masked_fill_(hidden, 0).sum(2)  # [batch, kv_head, query, key]
        if span.query_valid is not None:
            probs = probs * span.query_valid[:, None, start:stop, None]
        scores += torch.einsum("gq,bhqk->gbhk", weights[:, start:stop], probs)
    return output, scores
