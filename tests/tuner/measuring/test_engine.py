"""The engine's figures are those of the really attached model; trials that keep the same tokens run once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core import A2SFCache, A2SFError, LayerPolicy, Policy, attach
from a2sf_core.growth import Growth
from a2sf_core.observe import read_prompt
from a2sf_core.rules.attention import Decay, Window
from tests.tuner.models import holder_of, samples, tiny
from tuner.inputs.encoding import Encoded
from tuner.measuring.bank import BANK, SNAPKV_WINDOW, Bank
from tuner.measuring.engine import Engine
from tuner.measuring.keeping import keep_masks
from tuner.measuring.losses import Seen

POLICIES = {
    "full": Policy.full(3),
    "h2o": Policy.h2o(3, 0.4),
    "tova": Policy.tova(3, 0.3),
    "snapkv": Policy.snapkv(3, 0.5, SNAPKV_WINDOW),
    "streaming": Policy.streaming_llm(3, 0.3),
    "per layer": Policy(
        (LayerPolicy(Decay(0.0), 0.2, 0.5, 1), LayerPolicy(Decay(8.0), 7, 2, 0), LayerPolicy(Decay(math.inf), None)),
    ),
}


def answer_alone(model: Any, sample: Encoded, policy: Policy) -> tuple[float, float]:
    """NLL and accuracy of one sample with nothing but the attached model: no batch, no padding, token by token."""
    cache = A2SFCache(policy)
    logits = []
    with torch.no_grad(), attach(policy, model):
        logits.append(model(torch.tensor([sample.prompt_ids]), past_key_values=cache, use_cache=True).logits[0, -1])
        for token in sample.answer_ids[:-1]:
            logits.append(model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1])
    log_probs = torch.stack(logits).log_softmax(-1)  # [token, vocab]
    target = torch.tensor(sample.answer_ids)
    nll = -log_probs.gather(1, target[:, None]).mean()
    return float(nll), float((log_probs.argmax(-1) == target).float().mean())


def sliding() -> Any:
    """Three layers that see no further back than 24 tokens, 4 query heads, 2 KV heads."""
    return tiny("mistral", sliding_window=24)


def check_against_the_attached_model(model: Any, policy: Policy) -> None:
    data = samples(7)
    engine = Engine(model, data, batch_tokens=150, block_size=4)
    ours = engine.evaluate(policy)
    alone = np.array([answer_alone(model, sample, policy) for sample in data])
    assert np.abs(ours.nll - alone[:, 0]).max() < 1e-4
    assert np.abs(ours.accuracy - alone[:, 1]).max() == 0
    direct = engine.evaluate_directly(policy)
    for field in ("nll", "kl", "accuracy", "changed", "cache_fraction"):
        assert np.abs(getattr(ours, field) - getattr(direct, field)).max() < 1e-4, field


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("name", POLICIES)
def test_equals_the_attached_model(kind: str, name: str) -> None:
    check_against_the_attached_model(tiny(kind), POLICIES[name])


RAGGED = Policy((
    LayerPolicy(Decay(8.0), (0.2, 0.7), 0.5, 1),
    LayerPolicy(Decay(math.inf), (9, 3), 2, 0),
    LayerPolicy(Window(SNAPKV_WINDOW), (0.9, 0.4), SNAPKV_WINDOW),
))  # fmt: skip


GROWING = Policy(tuple(replace(layer, growth=Growth(0.4, 20, 60)) for layer in RAGGED.layers))


@pytest.mark.parametrize("policy", [RAGGED, GROWING], ids=["ragged", "growing"])
def test_heads_with_budgets_of_their_own_equal_the_attached_model(policy: Policy) -> None:
    check_against_the_attached_model(tiny("llama"), policy)


@pytest.mark.parametrize("policy", [POLICIES["full"], POLICIES["h2o"], RAGGED], ids=["full", "h2o", "ragged"])
def test_a_sliding_window_equals_the_attached_model(policy: Policy) -> None:
    check_against_the_attached_model(sliding(), policy)


def test_each_head_keeps_what_it_would_keep_alone() -> None:
    model, data = tiny("llama"), samples(5)
    engine = Engine(model, data)
    for batch in holder_of(engine).load(0):
        for row, index in enumerate(batch.samples):
            ids = torch.tensor([data[index].prompt_ids])
            n, width = ids.shape[1], batch.mask.shape[1]
            prompt = read_prompt(model, ids, None, BANK)
            for layer, (policy, keep) in enumerate(
                zip(RAGGED.layers, keep_masks(batch, RAGGED, Bank(BANK)), strict=True)
            ):
                place = BANK.index(policy.ranked_by)
                for head, budget in enumerate(policy.head_budget_tokens(n)):
                    scores = prompt.layers[layer].scores[place, 0, head].tolist()
                    alone = set(range(policy.sink)) | set(range(n - min(policy.recent_tokens(budget), budget), n))
                    best = sorted(set(range(n)) - alone, key=lambda slot: (-scores[slot], -slot))
                    alone |= set(best[: budget - len(alone)])
                    assert keep[row, head].nonzero()[:, 0].tolist() == sorted(slot + width - n for slot in alone)
                    assert len(alone) == budget


def test_blocks_are_a_partition_and_figures_do_not_depend_on_it() -> None:
    model, data = tiny("llama"), samples(11)
    whole = Engine(model, data, block_size=11).evaluate(POLICIES["tova"])
    engine = Engine(model, data, block_size=3, seed=5)
    seen = engine.race([POLICIES["tova"]])[0]
    assert engine.n_blocks == 4
    assert seen.rows.tolist() == list(range(11))
    assert np.abs(seen.losses.nll - whole.nll).max() < 1e-6
    some = engine.evaluate_blocks(POLICIES["tova"], 2)
    assert some.n == 6
    assert (some.losses.nll == seen.losses.nll[some.rows]).all()


def test_a_dropped_policy_goes_on_where_it_stopped() -> None:
    engine = Engine(tiny("llama"), samples(9), block_size=3)
    policies = [POLICIES["h2o"], POLICIES["tova"], POLICIES["snapkv"]]
    asked: list[tuple[int, int]] = []

    def is_hopeless(place: int, seen: Seen) -> bool:
        asked.append((place, seen.n))
        return place == 1 or (place == 2 and seen.n == 6)

    first, dropped, late = engine.race(policies, is_hopeless)
    assert asked == [(0, 3), (1, 3), (2, 3), (0, 6), (2, 6)]
    assert [first.n, dropped.n, late.n] == [9, 3, 6]
    assert engine.passes == 3 + 1 + 2
    complete = engine.race(policies)
    assert engine.passes == 9
    assert (complete[1].losses.nll[dropped.rows] == dropped.losses.nll).all()
    assert (engine.race(policies)[2].losses.kl == complete[2].losses.kl).all()
    assert engine.passes == 9


def test_the_full_cache_costs_nothing_and_a_small_one_something() -> None:
    engine = Engine(tiny("llama"), samples(6))
    full, small = engine.evaluate(POLICIES["full"]), engine.evaluate(POLICIES["tova"])
    assert np.abs(full.kl).max() < 1e-6
    assert full.changed.max() == 0
    assert (full.cache_fraction == 1).all()
    assert small.kl.mean() > 0.01
    assert small.cache_fraction.mean() == pytest.approx(0.3, abs=0.03)


def test_the_same_kept_tokens_are_computed_once() -> None:
    engine = Engine(tiny("llama"), samples(5))
    first = engine.evaluate(Policy.uniform(3, rule=Decay(8.0), budget=1.0))
    passes = engine.passes
    # A budget of everything keeps the same tokens whatever the half-life is.
    again = engine.evaluate(Policy.uniform(3, rule=Decay(0.0), budget=1.0))
    assert engine.passes == passes
    assert (again.nll == first.nll).all()
    engine.evaluate(Policy.uniform(3, rule=Decay(0.0), budget=0.5))
    assert engine.passes == passes + engine.n_blocks


def test_step_eviction_is_really_run() -> None:
    engine = Engine(tiny("llama"), samples(3))
    policy = Policy.uniform(3, evict="step", rule=Decay(4.0), budget=8)
    losses = engine.evaluate(policy)
    alone = [answer_alone(engine.model, sample, policy)[0] for sample in engine.samples]
    assert np.abs(losses.nll - np.array(alone)).max() < 1e-4


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy.full(2), "2 layers but the model has 3"),
        (Policy.uniform(3, rule=Decay(5.0), budget=0.5), r"Decay\(half_life=5.0\) is not in the engine's bank"),
        (Policy.snapkv(3, 0.5, 7), r"Window\(queries=7, pooling=1\) is not in the engine's bank"),
        (Policy.uniform(3, budget=(0.5, 0.2, 0.1)), "3 budgets but the model has 2 KV heads"),
    ],
)
def test_what_the_engine_cannot_measure_is_said(policy: Policy, words: str) -> None:
    with pytest.raises(A2SFError, match=words):
        Engine(tiny("llama"), samples(3)).evaluate(policy)


@pytest.mark.parametrize(("memory", "in_turn"), [(None, 6), (1, 3)])
def test_progress_is_told_prompt_by_prompt_and_not_of_prompts_read_again(memory: int | None, in_turn: int) -> None:
    told: list[tuple[int, int]] = []
    engine = Engine(tiny("llama"), samples(6), progress=lambda *at: told.append(at), block_size=3, memory=memory)
    engine.evaluate(Policy.full(3))
    assert told == [*((done, 6) for done in range(1, in_turn + 1)), (6, 6)]
