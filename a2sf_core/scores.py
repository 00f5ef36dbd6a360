"""The A2SF score, accumulated in one pass with memory linear in the number of tokens.

    A[g, k] = sum over queries q >= k of alpha_g^(n - 1 - q) * softmax(q, k)    (arXiv 2407.20485)

for several half-lives g at once. Calls add up by the recurrence

    A(n + m) = alpha^m * A(n) + (scores of the m new queries)

Grouped query heads are summed, so scores live in KV-head space. All accumulation is float32.

This file only chooses who does the work: `a2sf_core.kernels` on CUDA, if Triton is installed, and `a2sf_core.plain`
everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from a2sf_core.kernels import readiness
from a2sf_core.plain import scores as plain
from a2sf_core.plain.span import Span, last_queries


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
    scores: Tensor = _work(query, key).score(query, key, half_lives, scale, span)
    return scores


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
    found: tuple[Tensor, Tensor] = _work(query, key, value).attend_and_score(query, key, value, half_lives, scale, span)
    return found


def attend_and_score_causal(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float
) -> tuple[Tensor, Tensor]:
    """The fast case of `attend_and_score`: as many queries as keys, nothing padded, evicted or windowed."""
    work = _work(query, key, value)
    found: tuple[Tensor, Tensor] = work.attend_and_score_causal(query, key, value, half_lives, scale)
    return found


def attend_and_score_left_padded(
    query: Tensor, key: Tensor, value: Tensor, half_lives: Sequence[float], scale: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """`attend_and_score` for whole prompts that differ in nothing but their padding: each row by the fast case.

    Args:
        valid: bool `[batch, query]`, False then True along each row.
    """
    work = _work(query, key, value)
    found: tuple[Tensor, Tensor] = work.attend_and_score_left_padded(query, key, value, half_lives, scale, valid)
    return found


def _work(query: Tensor, key: Tensor, value: Tensor | None = None) -> ModuleType:
    """The module whose functions of the same names serve this call."""
    return readiness.backend(query, key, value) or plain
