"""The fast scores against the float64 matrix, over shapes, padding, offsets and windows."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor

from a2sf_core import scores
from a2sf_core.plain import scores as plain
from a2sf_core.plain.forgetting import decay, queries_that_matter, query_weights
from a2sf_core.plain.span import Span

from . import reference

HALF_LIVES = (8.0, 0.0, inf, 1.0, 64.0)


def tensors(batch: int, heads: int, kv_heads: int, n: int, keys: int, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + n + keys)
    make = lambda h, m: torch.randn(batch, h, m, dim, generator=generator) * 1.5  # noqa: E731
    return make(heads, n), make(kv_heads, keys), make(kv_heads, keys)


def spread(batch: int, kv_heads: int, keys: int) -> Tensor:
    return torch.arange(keys).expand(batch, kv_heads, keys)


def wanted(matrix: Tensor, window: int | None = None) -> Tensor:
    return torch.stack([reference.scores(matrix, h, window) for h in HALF_LIVES]).float()


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 300, 513])
@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 2), (1, 6, 1)])
def test_causal(n: int, shape: tuple[int, int, int]) -> None:
    q, k, v = tensors(*shape, n, n)
    matrix = reference.score_matrix(q, k, 0.25, spread(shape[0], shape[2], n), 0)
    output, got = scores.attend_and_score_causal(q, k, v, HALF_LIVES, 0.25)
    torch.testing.assert_close(got, wanted(matrix), atol=2e-5, rtol=1e-5)
    sdpa = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(output, sdpa, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sliding", [None, 9])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n", "keys"), [(40, 40), (17, 40), (1, 40)])
def test_offset_padding_and_sliding_window(n: int, keys: int, padded: bool, sliding: int | None) -> None:
    q, k, v = tensors(2, 4, 2, n, keys)
    key_pos = spread(2, 2, keys).clone()
    query_valid = None
    if padded:
        key_pos[0, :, :26] = -1
        query_valid = torch.ones(2, n, dtype=torch.bool)
        query_valid[0] = torch.arange(keys - n, keys) >= 26
    span = Span(keys - n, key_pos, query_valid, sliding)
    matrix = reference.score_matrix(q, k, 0.25, key_pos, keys - n, query_valid, sliding)
    output, got = scores.attend_and_score(q, k, v, HALF_LIVES, 0.25, span)
    torch.testing.assert_close(got, wanted(matrix), atol=1e-5, rtol=1e-5)
    assert output.isfinite().all()
    windowed = scores.score(q, k, HALF_LIVES, 0.25, span, window=5)
    torch.testing.assert_close(windowed, wanted(matrix, window=5), atol=1e-5, rtol=1e-5)


def test_holes_differ_per_head() -> None:
    """After an eviction every head holds other positions, with unused slots in between."""
    q, k, v = tensors(2, 4, 2, 3, 12)
    key_pos = torch.sort(torch.rand(2, 2, 20, generator=torch.Generator().manual_seed(0)).argsort(-1)[..., :12])[0]
    key_pos[0, 1, -2:] = -1
    matrix = reference.score_matrix(q, k, 0.25, key_pos, 20)
    _, got = scores.attend_and_score(q, k, v, HALF_LIVES, 0.25, Span(20, key_pos))
    torch.testing.assert_close(got, wanted(matrix), atol=1e-5, rtol=1e-5)


def test_blocks_of_queries_do_not_change_the_general_path(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(1, 4, 2, 50, 50)
    span = Span(0, spread(1, 2, 50))
    whole = scores.attend_and_score(q, k, v, HALF_LIVES, 0.25, span)
    monkeypatch.setattr(plain, "_BLOCK_FLOATS", 4 * 50 * 7)
    torch.testing.assert_close(scores.attend_and_score(q, k, v, HALF_LIVES, 0.25, span), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half_life", [1.0, 8.0, 20.0])
def test_skipping_old_queries_adds_no_error(half_life: float) -> None:
    """Adversarial: every query attends to key 0 alone, so skipped ones matter as much as they can."""
    n = 1024
    q, k, v = tensors(1, 4, 1, n, n)
    q[..., 0], k[..., 0] = 30.0, 0.0
    k[:, :, 0, 0] = 30.0
    exact = 4 * sum(2 ** (-age / half_life) for age in range(n))
    _, causal = scores.attend_and_score_causal(q, k, v, [half_life], 0.25)
    general = scores.score(q, k, [half_life], 0.25, Span(0, spread(1, 1, n)))
    assert queries_that_matter(half_life, 4) < n - 256, "nothing is skipped, so this shows nothing"
    assert abs(float(causal[0, 0, 0, 0]) - exact) < 1e-5 + 1e-6 * exact
    assert abs(float(general[0, 0, 0, 0]) - exact) < 1e-5 + 1e-6 * exact


def test_recurrence() -> None:
    q, k, _ = tensors(1, 4, 2, 60, 60)
    at_once = scores.score(q, k, HALF_LIVES, 0.25, Span(0, spread(1, 2, 60)))
    first = scores.score(q[:, :, :25], k[:, :, :25], HALF_LIVES, 0.25, Span(0, spread(1, 2, 25)))
    second = scores.score(q[:, :, 25:], k, HALF_LIVES, 0.25, Span(25, spread(1, 2, 60)))
    first = torch.nn.functional.pad(first, (0, 35))
    torch.testing.assert_close(decay(first, HALF_LIVES, 35) + second, at_once, atol=1e-5, rtol=1e-5)


def test_half_precision_scores_are_float32() -> None:
    q, k, v = (x.bfloat16() for x in tensors(1, 4, 2, 200, 200))
    matrix = reference.score_matrix(q, k, 0.25, spread(1, 2, 200), 0)
    output, got = scores.attend_and_score_causal(q, k, v, HALF_LIVES, 0.25)
    assert output.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted(matrix), atol=2e-2, rtol=2e-2)


def test_zero_to_the_zero_is_one() -> None:
    weights = query_weights([0.0, 1.0, inf], 3, torch.device("cpu"))
    assert weights.tolist() == [[0, 0, 1], [0.25, 0.5, 1], [1, 1, 1]]
