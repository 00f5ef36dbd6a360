"""Slow and obvious versions of everything, in float64, to compare the real ones with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from math import inf, prod
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from a2sf_core import LayerPolicy, Policy
from a2sf_core.half_life import alpha_of
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.learned import FLOOR, Learned
from a2sf_core.rules.norms import KeyNorm, ValueWeighted
from a2sf_core.rules.position import Position, Random

# How a layer computes: its policy, q [head, n, dim], k and v [kv_head, n, dim], valid [n], scale, sliding window
# -> output [head, n, dim].
Procedure = Callable[[LayerPolicy, Tensor, Tensor, Tensor, Tensor, float, int | None], Tensor]


def score_matrix(
    query: Tensor,
    key: Tensor,
    scale: float,
    key_pos: Tensor,
    query_start: int,
    query_valid: Tensor | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """The whole n x n softmax matrix, summed over the heads of a group: `[batch, kv_head, query, key]`."""
    batch, heads, n, dim = query.shape
    kv_heads = key.shape[1]
    q = query.double().view(batch, kv_heads, heads // kv_heads, n, dim)
    logits = (q @ key.double().unsqueeze(2).transpose(-1, -2)) * scale
    pos = torch.arange(query_start, query_start + n)[:, None]
    seen = (key_pos[:, :, None] >= 0) & (key_pos[:, :, None] <= pos)
    if sliding_window is not None:
        seen = seen & (key_pos[:, :, None] > pos - sliding_window)
    probs = logits.masked_fill(~seen.unsqueeze(2), -inf).softmax(-1).nan_to_num(0.0).sum(2)
    if query_valid is not None:
        probs = probs * query_valid[:, None, :, None]
    return probs


def scores(matrix: Tensor, half_life: float, window: int | None = None) -> Tensor:
    """sum over q of alpha^(n-1-q) * S[q, k], with 0^0 = 1: `[batch, kv_head, key]`."""
    n = matrix.shape[2]
    alpha = alpha_of(half_life)
    total = torch.zeros_like(matrix[:, :, 0])
    for q in range(n):
        if window is None or q >= n - window:
            total = total + alpha ** (n - 1 - q) * matrix[:, :, q]
    return total


def choose(score: dict[int, float], budget: int, sink: int, recent: int) -> list[int]:
    """The kept tokens among the keys of `score` (token -> score), ascending."""
    tokens = sorted(score)
    budget = min(budget, len(tokens))
    sink = min(sink, budget)
    recent = min(recent, budget - sink)
    kept = set(tokens[:sink]) | set(tokens[len(tokens) - recent :])
    for token in sorted(tokens, key=lambda t: (score[t], t), reverse=True):
        if len(kept) < budget:
            kept.add(token)
    return sorted(kept)


def worths(
    rule: ScoreRule,
    alive: list[int],
    totals: dict[float, dict[int, float]],
    rows: list[dict[int, float]],
    key: Tensor,
    value: Tensor,
    padding: int,
) -> dict[int, float]:
    """What every bundled rule ranks the tokens `alive` of one KV head by.

    `totals` is their forgotten attention by half-life, and `rows` that of all queries.
    """
    if isinstance(rule, Decay):
        return totals[rule.half_life]
    if isinstance(rule, Learned):
        pairs = list(zip(rule.half_lives, rule.powers[0], strict=True))
        sizes = {s: (float(value[s].norm()) + FLOOR) ** rule.value_powers[0] for s in alive}
        return {s: sizes[s] * prod((totals[h][s] + FLOOR) ** power for h, power in pairs) for s in alive}
    if isinstance(rule, Window):
        votes = [sum(row.get(s, 0.0) for row in rows[-rule.queries :]) for s in alive]
        reach = rule.pooling // 2
        padded = [0.0] * reach + votes + [0.0] * reach
        return {s: sum(padded[i : i + rule.pooling]) / rule.pooling for i, s in enumerate(alive)}
    if isinstance(rule, KeyNorm):
        return {s: -round(float(key[s].norm()), 5) for s in alive}
    if isinstance(rule, ValueWeighted):
        inner = worths(rule.inner, alive, totals, rows, key, value, padding)
        return {s: inner[s] * float(value[s].abs().sum()) for s in alive}
    if isinstance(rule, Random):
        return {s: _drawn(s - padding, rule.seed) for s in alive}
    assert isinstance(rule, Position)
    return dict.fromkeys(alive, 0.0)


def _drawn(place: int, seed: int) -> float:
    state = (place + 1 + seed * 48271) % (2**31 - 1)
    for _ in range(3):
        state = ((state ^ (state >> 13)) * 48271) % (2**31 - 1)
    return state / (2**31 - 1)


def token_by_token(policy: Policy, n_prompt: int) -> Procedure:
    """Every eviction mode, one query at a time: attend to what is alive and oneself, score, evict if due."""

    def run(
        layer: LayerPolicy, q: Tensor, k: Tensor, v: Tensor, valid: Tensor, scale: float, window: int | None
    ) -> Tensor:
        heads, n, _ = q.shape
        group = heads // k.shape[0]
        output = torch.zeros(heads, n, v.shape[-1], dtype=torch.float64)
        padding = int(valid.long().argmax())  # before the first token
        for kv in range(k.shape[0]):
            mine = slice(kv * group, (kv + 1) * group)
            alive: list[int] = []
            totals: dict[float, dict[int, float]] = {h: {} for h in layer.rule.accumulates}
            rows: list[dict[int, float]] = []
            count = decoded = 0
            for t in range(n):
                if not valid[t]:
                    continue
                count += 1
                decoded += t >= n_prompt
                alive.append(t)
                visible = [s for s in alive if window is None or s > t - window]
                probs = ((q[mine, t] @ k[kv, visible].T) * scale).softmax(-1)  # [group, visible]
                output[mine, t] = probs @ v[kv, visible]
                row = dict(zip(visible, probs.sum(0).tolist(), strict=True))
                rows.append(row)
                for h, total in totals.items():
                    totals[h] = {s: alpha_of(h) * total.get(s, 0.0) + row.get(s, 0.0) for s in alive}
                if layer.budget is None or not _is_due(policy, t, n_prompt, count, decoded):
                    continue
                budgets = layer.head_budget_tokens(count)
                budget = budgets[kv] if len(budgets) > 1 else budgets[0]
                worth = worths(layer.rule.of_heads([kv]), alive, totals, rows, k[kv], v[kv], padding)
                alive = choose(worth, budget, layer.sink, layer.recent_tokens(budget))
                totals = {h: {s: total[s] for s in alive} for h, total in totals.items()}
        return output

    return run


def _is_due(policy: Policy, t: int, n_prompt: int, count: int, decoded: int) -> bool:
    if t == n_prompt - 1:
        return True
    if t < n_prompt:
        return policy.chunk is not None and count % policy.chunk == 0
    return policy.decode_every is not None and decoded % policy.decode_every == 0


def paper(
    layer: LayerPolicy, q: Tensor, k: Tensor, v: Tensor, valid: Tensor, scale: float, window: int | None
) -> Tensor:
    """The paper's own procedure on the full attention matrix (arXiv 2407.20485; facts/paper.md).

    Budget B tokens. Rows are counted from 0, so row r belongs to token r and sees tokens 0..r. Rows 0..B-1 only
    accumulate: nothing is dropped while at most B tokens exist. From row B on a row is masked by the tokens
    dropped so far, renormalised, added to alpha * score; then the token with the lowest score among those
    alive, the row's own included, is dropped for all later rows. So row B still attends to B + 1 tokens (B kept
    ones and itself) and leaves B.
    """
    assert valid.all()
    assert window is None
    heads, n, _ = q.shape
    group = heads // k.shape[0]
    budget = layer.budget_tokens(10**6)
    assert isinstance(layer.rule, Decay)
    output = torch.zeros(heads, n, v.shape[-1], dtype=torch.float64)
    full = ((q @ k.repeat_interleave(group, 0).transpose(-1, -2)) * scale).masked_fill(
        torch.ones(n, n, dtype=torch.bool).triu(1), -inf
    )
    full = full.softmax(-1)  # [head, n, n]
    for kv in range(k.shape[0]):
        mine = slice(kv * group, (kv + 1) * group)
        dropped = torch.zeros(n, dtype=torch.bool)
        score = torch.zeros(n, dtype=torch.float64)
        for r in range(n):
            row = full[mine, r]  # [group, n]
            if r >= budget:
                row = row.masked_fill(dropped, 0)
                row = row / row.sum(-1, keepdim=True)
            output[mine, r] = row @ v[kv]
            score = layer.rule.alpha * score + row.sum(0)
            if r >= budget:
                alive = ~dropped & (torch.arange(n) <= r)
                dropped[score.masked_fill(~alive, inf).argmin()] = True
    return output


_NAME = "reference"
_active: dict[str, Any] = {}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    policy, procedure = _active["policy"], _active["procedure"]
    layer = policy.layers[module.layer_idx]
    rows = []
    for b in range(query.shape[0]):
        valid = torch.ones(query.shape[2], dtype=torch.bool) if mask is None else mask[b].bool()
        rows.append(
            procedure(layer, query[b].double(), key[b].double(), value[b].double(), valid, scaling, sliding_window)
        )
    return torch.stack(rows).transpose(1, 2).to(query.dtype).contiguous(), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, lambda *_, attention_mask=None, **__: attention_mask)


@contextmanager
def _reference_attention(model: Any, policy: Policy, procedure: Procedure) -> Any:
    before = model.config._attn_implementation
    _active.update(policy=policy, procedure=procedure)
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _active.clear()


@torch.no_grad()
def logits(model: Any, policy: Policy, procedure: Procedure, ids: Tensor, valid: Tensor | None = None) -> Tensor:
    """Logits `[batch, n, vocab]` of one forward over prompt and answer, without any cache."""
    valid = torch.ones_like(ids) if valid is None else valid
    with _reference_attention(model, policy, procedure):
        return model(ids, attention_mask=valid, position_ids=positions(valid), use_cache=False).logits


def positions(valid: Tensor) -> Tensor:
    """Position ids as generate makes them: valid tokens are counted, padding is 0."""
    return (valid.long().cumsum(-1) - 1).clamp(min=0)
