"""Caches that step together: every row is written as it would be alone, whatever joins or leaves beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from a2sf_core import A2SFCache, A2SFError, LayerPolicy, Policy, attach
from a2sf_core.layers.rows import in_rows
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.switch import cache_argument

from . import models

LENGTHS = (31, 12, 50, 23)
POLICIES = {
    "full": Policy.full(3),
    "whole": Policy.h2o(3, 0.4),
    "window": Policy.snapkv(3, 9, window=4),
    "each step": Policy.a2sf(3, 10, 0.9, evict="step"),
    "chunks": Policy.a2sf(3, 0.5, 0.9, evict="chunk=8", decode_every=3),
}
RAGGED = Policy((LayerPolicy(Decay(8.0), (0.2, 0.6)), LayerPolicy(Window(4), 0.3), LayerPolicy()), decode_every=2)


def start(model: Any, policy: Policy, ids: torch.Tensor) -> tuple[A2SFCache, int]:
    cache = A2SFCache(policy)
    logits = model(ids, **{cache_argument(model): cache}, logits_to_keep=1).logits
    return cache, int(logits[0, -1].argmax())


def step(model: Any, rows: list[tuple[A2SFCache, list[int]]]) -> None:
    """One more token for every row."""
    at = [[cache.get_seq_length()] for cache, _ in rows]
    batch = A2SFCache(layers=in_rows([cache for cache, _ in rows]))
    logits = model(
        torch.tensor([[tokens[-1]] for _, tokens in rows]),
        position_ids=torch.tensor(at),
        **{cache_argument(model): batch},
    ).logits
    for (_, tokens), token in zip(rows, logits[:, -1].argmax(-1).tolist(), strict=True):
        tokens.append(token)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_rows_that_join_and_leave_are_written_as_alone(llama: Any, policy: Policy) -> None:
    check_rows(llama, policy)


def test_so_are_those_of_every_family(model: Any) -> None:
    grouped = getattr(model.config, "num_key_value_heads", 4) == 2
    others = (LayerPolicy(Window(4), 0.3), LayerPolicy())
    budgets = (0.2, 0.6) if grouped else (0.2, 0.6, 0.2, 0.9)
    check_rows(model, Policy((LayerPolicy(Decay(8.0), budgets), *others), decode_every=2))


@torch.no_grad()
def check_rows(model: Any, policy: Policy) -> None:
    prompts = [models.prompt(1, n, seed=n) for n in LENGTHS]
    with attach(policy, model):
        alone = [model.generate(ids, max_new_tokens=9, **models.GREEDY)[0, ids.shape[1] :].tolist() for ids in prompts]
        rows: list[tuple[A2SFCache, list[int]]] = []
        finished: dict[int, list[int]] = {}
        waiting = list(enumerate(prompts))
        names: list[int] = []
        while waiting or rows:
            if waiting:  # one joins at every step
                number, ids = waiting.pop(0)
                cache, first = start(model, policy, ids)
                rows.append((cache, [first]))
                names.append(number)
            step(model, rows)
            for number, row in [*zip(names, rows, strict=True)]:
                if len(row[1]) == 9:
                    finished[number] = row[1]
                    names.remove(number)
                    rows.remove(row)
    assert [finished[number] for number in range(len(prompts))] == alone


@torch.no_grad()
def test_rows_may_follow_different_policies(llama: Any) -> None:
    ids, others = models.prompt(1, 30), (Policy.full(3), Policy.h2o(3, 6), RAGGED)
    alone = []
    for policy in others:
        with attach(policy, llama):
            alone.append(llama.generate(ids, max_new_tokens=6, **models.GREEDY)[0, 30:].tolist())
    with attach(Policy.full(3), llama):
        started = [start(llama, policy, ids) for policy in others]
        rows = [(cache, [first]) for cache, first in started]
        for _ in range(5):
            step(llama, rows)
    assert [tokens for _, tokens in rows] == alone
    assert len({tuple(tokens) for tokens in alone}) > 1, "the policies must differ in what is written"


@torch.no_grad()
def test_what_rows_cannot_do_is_said(llama: Any) -> None:
    with attach(Policy.full(3), llama):
        cache, _ = start(llama, Policy.full(3), models.prompt(1, 5))
        batch = A2SFCache(layers=in_rows([cache, cache]))
        assert batch.layers[0].kept_counts().tolist() == [[5, 5], [5, 5]]
        with pytest.raises(A2SFError, match="one token at a time, not 2"):
            llama(models.prompt(2, 2), **{cache_argument(llama): batch})
        with pytest.raises(A2SFError, match="made anew for every step"):
            batch.seal()
    with pytest.raises(A2SFError, match="must have read its prompt"):
        in_rows([A2SFCache(Policy.full(3))])
