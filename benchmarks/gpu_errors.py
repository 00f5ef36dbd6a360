"""Errors of the scores on a CUDA device against float64, for `python -m benchmarks.gpu`."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context

import torch
from torch import Tensor

from a2sf_core.kernels.readiness import TOLERANCE
from a2sf_core.plain.span import Span
from a2sf_core.scores import attend_and_score, attend_and_score_causal

_TOKENS = 1500


def errors(heads: int, kv_heads: int, half_lives: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """For each dtype, head size and kind of call: the largest error over the score scale, and its limit.

    The score scale is the largest true score of the same half-life. Each dtype and head size has a process of its own:
    nearly all of the time is Triton's compiling, on one core.
    """
    cases = [(dtype, dim) for dtype in TOLERANCE for dim in (64, 80, 96, 128, 256)]
    workers = min(len(cases), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = [pool.submit(_errors, dtype, dim, heads, kv_heads, half_lives) for dtype, dim in cases]
        return {name: pair for job in jobs for name, pair in job.result().items()}


def _errors(
    dtype: torch.dtype, dim: int, heads: int, kv_heads: int, half_lives: tuple[float, ...]
) -> dict[str, tuple[float, float]]:
    torch.manual_seed(0)
    found = {}
    for kind in ("prompt", "padded", "chunk", "window"):
        query, key, value, span = _call(kind, heads, kv_heads, dim, dtype)
        rest = half_lives, dim**-0.5
        if kind == "prompt":
            _, got = attend_and_score_causal(query, key, value, *rest)
        else:
            _, got = attend_and_score(query, key, value, *rest, span)
        wanted = _exact(query, key, span, half_lives)
        scale = wanted.flatten(1).amax(-1)[:, None, None, None]  # [half_life, 1, 1, 1]
        name = f"{str(dtype).removeprefix('torch.')} {dim} {kind}"
        found[name] = float(((got - wanted).abs() / scale).max()), TOLERANCE[dtype]
    return found


def _call(kind: str, heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Span]:
    batch = 2 if kind == "padded" else 1
    make = lambda h: torch.randn(batch, _TOKENS, h, dim, device="cuda", dtype=dtype).transpose(1, 2)  # noqa: E731
    query, key, value = make(heads), make(kv_heads), make(kv_heads)
    pos = torch.arange(_TOKENS, device="cuda").expand(batch, kv_heads, _TOKENS)
    if kind == "padded":
        valid = pos[:, 0] >= torch.tensor([[0], [333]], device="cuda")  # [batch, query]
        return query, key, value, Span(0, pos.masked_fill(~valid[:, None], -1), valid)
    if kind == "chunk":
        return query[:, :, 900:], key, value, Span(900, pos)
    return query, key, value, Span(0, pos, None, 400 if kind == "window" else None)


def _exact(query: Tensor, key: Tensor, span: Span, half_lives: tuple[float, ...]) -> Tensor:
    alpha = torch.tensor([0.0 if h == 0 else 2 ** (-1 / h) for h in half_lives], device="cuda", dtype=torch.float64)
    n, group = query.shape[2], query.shape[1] // key.shape[1]
    total = torch.zeros(len(half_lives), *key.shape[:3], device="cuda", dtype=torch.float64)
    for start in range(0, n, 128):
        stop = min(start + 128, n)
        rows = query[:, :, start:stop].double().unflatten(1, (-1, group))  # [batch, kv_head, group, query, dim]
        logits = rows @ key.double().unsqueeze(2).transpose(-1, -2) * query.shape[-1] ** -0.5
        logits = logits.masked_fill(~span.visible(start, stop).unsqueeze(2), -inf)
        probs = logits.softmax(-1).nan_to_num(0).sum(2)  # [batch, kv_head, query, key]
        if span.query_valid is not None:
            probs = probs * span.query_valid[:, None, start:stop, None]
        age = torch.arange(n - 1 - start, n - 1 - stop, -1, device="cuda", dtype=torch.float64)  # [query]
        total += torch.einsum("gq,bhqk->gbhk", alpha[:, None] ** age, probs)
    return total
