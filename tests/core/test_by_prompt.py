"""Budgets dealt out by the prompt: the kept sets of a slow and obvious competition, wherever a cache is used."""

from __future__ import annotations

from math import floor, inf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from a2sf_core import A2SFCache, A2SFError, LayerPolicy, Policy, attach
from a2sf_core.cache import parts_of
from a2sf_core.dealing import dealt_out
from a2sf_core.decoder import decode
from a2sf_core.layers.rows import in_rows
from a2sf_core.observe import read_prompt
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.learned import Learned
from a2sf_core.serve.cost import CacheCost, held_bytes
from a2sf_core.serve.shadow import whole_fork
from a2sf_core.switch import cache_argument

from . import models

N = 40
BUDGETS = ((0.3, 0.15), (9, 3), (0.1, 0.5))


def rule(layer: int) -> Learned:
    """Heads whose curves differ, so that a competition takes from one and gives to another."""
    return Learned(
        (4.0, inf), ((0.5, 0.5), (0.2, 1.0)), (0.0, 0.5), ((-4.0, 1.0), (-3.0, 0.5)),
        ((-9.0, -6.0, -2.0 - layer), (-8.0, -5.0, -1.0 + layer)),
    )  # fmt: skip


def policy(**fields: Any) -> Policy:
    layers = (LayerPolicy(rule(i), budget, 0.25, 2) for i, budget in enumerate(BUDGETS))
    return Policy(tuple(layers), by_prompt=True, **fields)


@pytest.fixture(scope="module")
def llama() -> Any:
    return models.build("llama")


@torch.no_grad()
def read(model: Any, ids: Tensor, mask: Tensor | None = None) -> A2SFCache:
    cache = A2SFCache(policy())
    positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
    with attach(policy(), model):
        model(ids, attention_mask=mask, position_ids=positions, **{cache_argument(model): cache})
    return cache


def naive(model: Any, ids: Tensor) -> list[list[set[int]]]:
    """By layer and head what stays of one prompt: one list of all tokens of all heads, the dearest of them win."""
    found = read_prompt(model, ids, own=[rule(i) for i in range(3)])
    n, own = ids.shape[1], policy()
    safe: list[set[int]] = []
    candidates, budgets = [], []
    for i, layer in enumerate(own.layers):
        for head, budget in enumerate(layer.head_budget_tokens(n)):
            budgets.append(budget)
            recent = layer.recent_tokens(budget)
            safe.append({*range(min(2, budget)), *range(n - min(recent, budget - min(2, budget)), n)})
            worth = found.layers[i].worth[0, 0, head]
            candidates += [(-float(worth[token]), 2 * i + head) for token in range(n) if token not in safe[-1]]
    winners = [head for _, head in sorted(candidates)[: sum(budgets) - sum(map(len, safe))]]
    counts = between([len(mine) + winners.count(head) for head, mine in enumerate(safe)], budgets, n)
    stay = []
    for head, (mine, count) in enumerate(zip(safe, counts, strict=True)):
        score = found.layers[head // 2].scores[0, 0, head % 2]
        others = sorted(set(range(n)) - mine, key=lambda token: -float(score[token]))
        stay.append(mine | set(others[: count - len(mine)]))
    return [stay[2 * layer : 2 * layer + 2] for layer in range(3)]


def between(won: list[int], budgets: list[int], most: int) -> list[int]:
    """The geometric mean of what heads won and their budgets, scaled until it adds up, none over `most`."""
    total, low, high = sum(budgets), 0.0, 1000.0
    means = [sqrt(a * b) for a, b in zip(won, budgets, strict=True)]
    for _ in range(200):
        scale = (low + high) / 2
        low, high = (scale, high) if sum(min(most, scale * mean) for mean in means) < total else (low, scale)
    wanted = [round(min(most, high * mean), 6) for mean in means]
    whole = [floor(each) for each in wanted]
    for head in sorted(range(len(wanted)), key=lambda head: whole[head] - wanted[head])[: total - sum(whole)]:
        whole[head] += 1
    return whole


def held(cache: A2SFCache, row: int = 0) -> list[list[set[int]]]:
    return [[{int(p) for p in part.positions[row, 0] if p >= 0} for part in layer.parts] for layer in cache.layers]


def test_dealing_is_a_competition_of_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        batch, heads, keys = 2, 5, 12
        worth = torch.rand(batch, heads, keys, generator=generator).mul(6).round()  # many ties
        n = torch.randint(3, keys + 1, (batch,), generator=generator)
        valid = (torch.arange(keys) >= keys - n[:, None])[:, None].expand(batch, heads, keys)
        budget, sink, recent = (torch.randint(low, 9, (batch, heads), generator=generator) for low in (1, 0, 0))
        found = dealt_out(worth, valid, budget, sink, recent)
        for row in range(batch):
            tokens, total, length = [], 0, int(n[row])
            for head in range(heads):
                own = min(int(budget[row, head]), length)
                first = min(int(sink[row, head]), own)
                last = min(int(recent[row, head]), own - first)
                total += own
                for place in range(length):
                    is_safe = place < first or place >= length - last
                    value = inf if is_safe else float(worth[row, head, keys - length + place])
                    tokens.append((-value, head))
            winners = [head for _, head in sorted(tokens)[:total]]
            own = [min(int(each), length) for each in budget[row]]
            assert found[row].tolist() == between([winners.count(head) for head in range(heads)], own, length)


def test_what_stays_is_what_a_naive_competition_keeps(llama: Any) -> None:
    counts = set()
    for seed in range(4):
        ids = models.prompt(1, N, seed)
        cache = read(llama, ids)
        cache.cut()
        assert held(cache) == naive(llama, ids)
        counts.add(tuple(int(each) for layer in cache.layers for each in layer.kept_counts().flatten()))
        fixed = [budget for layer in policy().layers for budget in layer.head_budget_tokens(N)]
        assert sum(int(layer.kept_counts().sum()) for layer in cache.layers) == sum(fixed)
    assert len(counts) > 1, "every prompt was dealt the same, so this shows nothing"


def test_rows_of_a_batch_and_padding_do_not_matter(llama: Any) -> None:
    ids, mask = models.prompt(3, N), models.padding(3, N, 9)
    cache = read(llama, ids, mask)
    cache.cut()
    assert held(cache, 1) == naive(llama, ids[1:2])
    alone = naive(llama, ids[:1, 9:])
    assert held(cache, 0) == [[{token + 9 for token in head} for head in layer] for layer in alone]


@torch.no_grad()
def test_all_ways_to_write_agree(llama: Any) -> None:
    ids = models.prompt(1, N)
    name = cache_argument(llama)
    with attach(policy(), llama):
        whole = llama.generate(ids, max_new_tokens=8, **models.GREEDY)[:, N:]
        cache = A2SFCache(policy())
        first = llama(ids, **{name: cache}).logits[:, -1].argmax(-1)
        fork = cache.fork()
        assert torch.equal(decode(llama, fork, first, 8), whole)
        assert int(cache.layers[0].kept_counts().sum()) == 2 * N  # the fork was cut, not what it came from
        cache.cut()
        token, written = first[:, None], [first]
        for step in range(7):
            rows = A2SFCache(layers=in_rows([cache, cache.fork()]))
            positions = torch.full((2, 1), N + step)
            logits = llama(token.expand(2, 1), position_ids=positions, **{name: rows}).logits[:, -1]
            token = logits.argmax(-1)[:1, None]
            written.append(token[:, 0])
        assert torch.equal(torch.stack(written, 1), whole)


@torch.no_grad()
def test_a_second_turn_deals_again(llama: Any) -> None:
    ids, name = models.prompt(1, 2 * N), cache_argument(llama)
    cache = read(llama, ids[:, :N])
    with attach(policy(), llama):
        llama(ids[:, N : N + 1], **{name: cache})
        llama(ids[:, N + 1 :], **{name: cache})
        cache.cut()
    wanted = sum(budget for layer in policy().layers for budget in layer.head_budget_tokens(2 * N))
    assert sum(int(layer.kept_counts().sum()) for layer in cache.layers) == wanted


def test_what_is_sealed_stays_and_what_is_compared_is_whole(llama: Any) -> None:
    cache = read(llama, models.prompt(1, N))
    whole = whole_fork(cache)
    cache.seal()
    assert held(cache) == naive(llama, models.prompt(1, N))
    assert all(layer.is_sealed for layer in cache.layers)
    assert [len(tokens) for layer in held(whole) for tokens in layer] == [N] * 6


def test_what_it_costs_is_known_beforehand(llama: Any) -> None:
    cost, cache = CacheCost.of(llama, policy()), read(llama, models.prompt(1, N))
    assert held_bytes(cache) <= cost.reading(N)
    cache.cut()
    cache.seal()
    assert held_bytes(cache) == cost.holding(N, 0)


def test_a_layer_that_keeps_all_takes_no_part(llama: Any) -> None:
    layers = policy().layers
    mixed = Policy((layers[0], LayerPolicy(rule(1)), layers[2]), by_prompt=True)
    ids = models.prompt(1, N)
    cache = A2SFCache(mixed)
    with torch.no_grad(), attach(mixed, llama):
        llama(ids, **{cache_argument(llama): cache})
    cache.cut()
    fixed = sum(budget for i in (0, 2) for budget in layers[i].head_budget_tokens(N))
    assert sum(int((part.positions >= 0).sum()) for part in parts_of(cache)) == fixed + 2 * N


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"decode_every": 4}, "by_prompt deals budgets out once, after the prompt"),
        ({"evict": "chunk=8"}, "set evict to 'prefill'"),
        ({"by_prompt": "yes"}, "by_prompt must be true or false, not 'yes'"),
        (
            {"layers": (LayerPolicy(rule(0), 0.3),)},
            r"layers\[0\].budget must be one per KV head for by_prompt, not 0.3",
        ),
        ({"layers": (LayerPolicy(Decay(8.0), (0.3, 0.2)),)}, r"layers\[0\].rule: what decay says of tokens does not"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        Policy(**{"layers": policy().layers, "by_prompt": True, **fields})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores", ((1.0, 0.0), (0.0, 1.0))), ("scores", ((0.0, 1.0),)), ("scores", 3), ("log_nats", ()),
        ("log_nats", ((-3.0, -2.0), (-3.0, -2.0, -1.0))), ("log_nats", ((-3.0, "x"), (-3.0, -2.0))),
    ],
)  # fmt: skip
def test_a_curve_that_is_none_is_refused(name: str, value: Any) -> None:
    given = rule(0).to_dict() | {name: value}
    with pytest.raises(A2SFError, match=r"(scores|log_nats)\S* must be"):
        Learned.read({key: each for key, each in given.items() if key != "name"}, "rule")


def test_policies_and_rules_are_read_back() -> None:
    assert Policy.from_dict(policy().to_dict()) == policy()
    older = {key: value for key, value in rule(0).to_dict().items() if key not in ("name", "scores", "log_nats")}
    assert not Learned.read(older, "rule").compares


def test_a_rule_that_does_not_compare_says_so() -> None:
    assert not Decay(8.0).compares
    with pytest.raises(NotImplementedError, match="decay does not compare tokens of different heads"):
        Decay(8.0).worth(None)  # type: ignore[arg-type]
