"""The entry points of `a2sf_core.scores` by kernels. They take and return the same, for calls that are `usable`."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf

import torch
from torch import Tensor

from a2sf_core.kernels.attend import attend
from a2sf_core.kernels.columns import column_scores
from a2sf_core.kernels.library import causal_operator
from a2sf_core.plain.forgetting import queries_that_matter
from a2sf_core.plain.span import Span, last_queries


def score(query: Tensor, key: Tensor, half_lives: Sequence[float], scale: float, span: Span) -> Tensor:
    """`a2sf_core.scores.score`: only the queries that matter are read."""
    group = query.shape[1] // key.shape[1]
    reach = max((queries_that_matter(h, group) for h in half_lives), default=1)
    if reach < query.shape[2]:
        query, span = last_queries(query, span, ceil(reach))
    _, lse = attend(query, key, None, scale, span)
    return column_scores(query, key, lse, half_lives, scale, span)


def attend_and_score(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, span: Span
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score`."""
    output, lse = attend(query, key, value, scale, span)
    assert output is not None
    return output, column_scores(query, key, lse, half_lives, scale, span)


def attend_and_score_causal(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score_causal`."""
    output, lse = _attend_causal(query, key, value, scale)
    return output, column_scores(query, key, lse, half_lives, scale, _whole(key))


def attend_and_score_left_padded(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """`a2sf_core.scores.attend_and_score_left_padded`: attention row by row, scores of all rows at once."""
    output = torch.zeros_like(query)  # [batch, head, query, dim]
    lse = torch.full(query.shape[:3], inf, device=query.device)  # [batch, head, query]
    # The one question to the device on this path; whoever found that all padding is on the left has asked one too.
    for row, padded in enumerate((~valid).sum(-1).tolist()):
        own = (slice(row, row + 1), slice(None), slice(padded, None))
        output[own], lse[own] = _attend_causal(query[own], key[own], value[own], scale)
    key_pos = _whole(key).key_pos.masked_fill(~valid[:, None], -1)  # [batch, kv_head, key]
    return output, column_scores(query, key, lse, half_lives, scale, Span(0, key_pos, valid))


def _attend_causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    # The library's own attention where it gives the log-sum-exp.
    operator = causal_operator(query, key, value, scale)
    if operator is not None:
        return operator(query, key, value, scale)
    output, lse = attend(query, key, value, scale, _whole(key))
    assert output is not None
    return output, lse


def _whole(key: Tensor) -> Span:
    batch, kv_heads, n, _ = key.shape
    return Span(0, torch.arange(n, device=key.device).expand(batch, kv_heads, n))
