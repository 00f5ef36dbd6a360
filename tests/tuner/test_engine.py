"""The engine's figures are those of the really attached model; trials that keep the same tokens run once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.errors import A2SFError
from a2sf_core.policy import LayerPolicy, Policy
from tests.tuner.models import samples, tiny
from tuner.engine import SNAPKV_WINDOW, Engine
from tuner.prompts import Encoded

POLICIES = {
    "full": Policy.full(3),
    "h2o": Policy.h2o(3, 0.4),
    "tova": Policy.tova(3, 0.3),
    "snapkv": Policy.snapkv(3, 0.5, SNAPKV_WINDOW),
    "streaming": Policy.streaming_llm(3, 0.3),
    "per layer": Policy(
        (LayerPolicy(0.0, 0.2, 0.5, 1), LayerPolicy(8.0, 7, 2, 0), LayerPolicy(math.inf, None)),
    ),
}


def answer_alone(model: Any, sample: Encoded, policy: Policy) -> tuple[float, float]:
    """NLL and accuracy of one sample with nothing but the attached model: no batch, no padding, token by token."""
    cache = policy.cache()
    logits = []
    with torch.no_grad(), policy.attach(model):
        logits.append(model(torch.tensor([sample.prompt_ids]), past_key_values=cache, use_cache=True).logits[0, -1])
        for token in sample.answer_ids[:-1]:
            logits.append(model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1])
    log_probs = torch.stack(logits).log_softmax(-1)  # [token, vocab]
    target = torch.tensor(sample.answer_ids)
    nll = -log_probs.gather(1, target[:, None]).mean()
    return float(nll), float((log_probs.argmax(-1) == target).float().mean())


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("name", POLICIES)
def test_equals_the_attached_model(kind: str, name: str) -> None:
    model, data = tiny(kind), samples(7)
    engine = Engine(model, data, batch_tokens=150)
    ours = engine.evaluate(POLICIES[name])
    alone = np.array([answer_alone(model, sample, POLICIES[name]) for sample in data])
    assert np.abs(ours.nll - alone[:, 0]).max() < 1e-4
    assert np.abs(ours.accuracy - alone[:, 1]).max() == 0
    direct = engine.evaluate_directly(POLICIES[name])
    for field in ("nll", "kl", "accuracy", "changed", "cache_fraction"):
        assert np.abs(getattr(ours, field) - getattr(direct, field)).max() < 1e-4, field


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
    first = engine.evaluate(Policy.uniform(3, half_life=8.0, budget=1.0))
    passes = engine.passes
    # A budget of everything keeps the same tokens whatever the half-life is.
    again = engine.evaluate(Policy.uniform(3, half_life=0.0, budget=1.0))
    assert engine.passes == passes
    assert again is first
    engine.evaluate(Policy.uniform(3, half_life=0.0, budget=0.5))
    assert engine.passes == passes + 1


def test_step_eviction_is_really_run() -> None:
    engine = Engine(tiny("llama"), samples(3))
    policy = Policy.uniform(3, evict="step", half_life=4.0, budget=8)
    losses = engine.evaluate(policy)
    alone = [answer_alone(engine.model, sample, policy)[0] for sample in engine.samples]
    assert np.abs(losses.nll - np.array(alone)).max() < 1e-4


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy.full(2), "2 layers but the model has 3"),
        (Policy.uniform(3, half_life=5.0, budget=0.5), "half-life 5 is not in the engine's bank"),
        (Policy.snapkv(3, 0.5, 7), "a window of 16, not 7"),
    ],
)
def test_what_the_engine_cannot_measure_is_said(policy: Policy, words: str) -> None:
    with pytest.raises(A2SFError, match=words):
        Engine(tiny("llama"), samples(3)).evaluate(policy)
