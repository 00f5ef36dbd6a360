"""The A2SF score, accumulated in one pass with memory linear in the number of tokens.

    A[g, k] = sum over queries q >= k of alpha_g^(n - 1 - q) * softmax(q, k)    (arXiv 2407.20485)

for several half-lives g at once. Calls add up by the recurrence

    A(n + m) = alpha^m * A(n) + (scores of the m new queries)

Grouped query heads are summed, so scores live in KV-head space. All accumulation is float32.

This is the reference in plain PyTorch, and what runs on a CPU. On CUDA the same four functions hand over to
`a2sf_core.kernels`, if Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import inf, log2

import torch
from torch import Tensor

from a2sf_core import kernels
from a2sf_core.layer_policy import LayerPolicy

# Attention that may be left out of one key, in sum over all skipped queries of a KV head: queries so old
# that they cannot matter for any half-life asked are never multiplied.
_SKIPPED_SCORE = 1e-5

# Tiles of query rows x keys that stay in the L2 cache of a CPU core; found with benchmarks/scoring.py.
_TILE_QUERIES = 128
_TILE_KEYS = 256

# Floats in the score block of the general path, which holds whole rows of keys: 16 MB.
_BLOCK_FLOATS = 4_000_000


@dataclass(frozen=True)
class Span:
    """Where the queries and keys of one call stand in the sequence.

    Attributes:
        query_start: logical position of the first query; the others follow.
        key_pos: int64 `[batch, kv_head, key]`, logical position of each key, -1 for padding and empty slots.
        query_valid: bool `[batch, query]`, False for padding; None if no query is padding.
        sliding_window: a query at p sees keys at p - sliding_window + 1 .. p; None for all up to p.
    """

    query_start: int
    key_pos: Tensor
    query_valid: Tensor | None = None
    sliding_window: int | None = None

    def visible(self, start: int, stop: int) -> Tensor:
        """bool `[batch, kv_head, stop - start, key]`: what queries start..stop-1 of this call may see."""
        pos = torch.arange(self.query_start + start, self.query_start + stop, device=self.key_pos.device)
        key_pos = self.key_pos.unsqueeze(-2)  # [batch, kv_head, 1, key]
        seen = (key_pos >= 0) & (key_pos <= pos[:, None])  # [batch, kv_head, query, key]
        if self.sliding_window is not None:
            seen = seen & (key_pos > pos[:, None] - self.sliding_window)
        return seen


def query_weights(half_lives: Sequence[float], n: int, device: torch.device) -> Tensor:
    """alpha^(n - 1 - q) for each half-life and query, with 0^0 = 1: float32 `[half_life, query]`."""
    age = torch.arange(n - 1, -1, -1, dtype=torch.float64, device=device)  # [query]
    rows = [torch.pow(torch.tensor(LayerPolicy(h).alpha, dtype=torch.float64, device=device), age) for h in half_lives]
    return torch.stack(rows).float() if rows else age.new_zeros(0, n).float()


def decay(scores: Tensor, half_lives: Sequence[float], steps: int) -> Tensor:
    """alpha^steps * scores, the first term of the recurrence; scores are `[half_life, ...]`."""
    factors = torch.tensor([LayerPolicy(h).alpha ** steps for h in half_lives], device=scores.device)
    return scores * factors.view(-1, *[1] * (scores.dim() - 1))


def queries_that_matter(half_life: float, group: int) -> float:
    """How many of the last queries suffice: those before them add at most 1e-5 to any score."""
    alpha = LayerPolicy(half_life).alpha
    if alpha == 1:
        return inf
    if alpha == 0:
        return 1
    return max(1.0, half_life * log2(group / ((1 - alpha) * _SKIPPED_SCORE)))


def last_queries(query: Tensor, span: Span, n: int) -> tuple[Tensor, Span]:
    """The last `n` queries of a call, fewer than it has, and where they stand."""
    skipped = query.shape[2] - n
    valid = None if span.query_valid is None else span.query_valid[:, skipped:]
    return query[:, :, skipped:], Span(span.query_start + skipped, span.key_pos, valid, span.sliding_window)


def score(
    query: Tensor,
    key: Tensor,
    half_lives: Sequence[float],
    scale: float,
    span: Span,
    window: int | None = None,
) -> Tensor:
    """Scores of the keys from the queries of this call alone.

    Args:
        query: `[batch, head, query, dim]`.
        key: `[batch, kv_head, key, dim]`; head is a multiple of kv_head.
        half_lives: tokens, one per score wanted.
        scale: factor of the dot product, usually dim ** -0.5.
        span: where queries and keys stand, padding, sliding window.
        window: only the last `window` queries count.

    Returns:
        float32 `[half_life, batch, kv_head, key]`.
    """
    if window is not None and window < query.shape[2]:
        query, span = last_queries(query, span, window)
    if (by_kernels := kernels.backend(query, key)) is not None:
        return by_kernels.score(query, key, half_lives, scale, span)
    return _rows(query, key, None, half_lives, scale, span)[1]


def attend_and_score(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, span: Span
) -> tuple[Tensor, Tensor]:
    """Attention and scores in one pass, for any padding, eviction or sliding window.

    Args:
        value: `[batch, kv_head, key, dim]`; the others as in `score`.

    Returns:
        attention output `[batch, head, query, dim]` in the dtype of `query`, and scores float32
        `[half_life, batch, kv_head, key]`. Rows of padded queries are finite and meaningless.
    """
    if (by_kernels := kernels.backend(query, key, value)) is not None:
        return by_kernels.attend_and_score(query, key, value, half_lives, scale, span)
    return attend_and_score_plainly(query, key, value, half_lives, scale, span)


def attend_and_score_plainly(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, span: Span
) -> tuple[Tensor, Tensor]:
    """`attend_and_score` in plain PyTorch wherever it runs: what kernels are held to."""
    output, scores = _rows(query, key, value, half_lives, scale, span)
    assert output is not None
    return output, scores


def attend_and_score_causal(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float
) -> tuple[Tensor, Tensor]:
    """The fast case of `attend_and_score`: as many queries as keys, nothing padded, evicted or windowed."""
    if (by_kernels := kernels.backend(query, key, value)) is not None:
        return by_kernels.attend_and_score_causal(query, key, value, half_lives, scale)
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
    """`attend_and_score` for whole prompts that differ in nothing but their padding: each row by the fast case.

    Args:
        valid: bool `[batch, query]`, False then True along each row.
    """
    if (by_kernels := kernels.backend(query, key, value)) is not None:
        return by_kernels.attend_and_score_left_padded(query, key, value, half_lives, scale, valid)
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
