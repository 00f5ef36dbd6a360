"""Quantised models that round what passes through them are noticed, and measured as they serve."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from a2sf_core import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.choosing import log_likelihoods
from tuner.measuring.engine import Engine
from tuner.measuring.rounding import TOLERANCE, change_of_logits, must_run_attached

POLICY = Policy.h2o(3, 0.4)


@pytest.fixture
def rounding() -> Any:
    """Its MLPs round what they give to bfloat16, as 4-bit weights of bitsandbytes do on a CPU."""
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _, __, given: given.bfloat16().float())
    return model


def test_only_a_quantised_model_that_rounds_is_run_attached(rounding: Any) -> None:
    said: list[str] = []
    plain = tiny("llama")
    assert change_of_logits(plain) < TOLERANCE / 5
    assert change_of_logits(rounding) > 5 * TOLERANCE
    assert not must_run_attached(rounding, said.append)
    plain.is_quantized = rounding.is_quantized = True
    assert not must_run_attached(plain, said.append)
    assert not said
    assert must_run_attached(rounding, said.append)
    assert "the report samples are measured by really running the attached model" in said[0]


def test_a_model_that_computes_in_bfloat16_is_no_news() -> None:
    model = tiny("llama").bfloat16()
    model.is_quantized = True  # as transformers says of a .gguf file, whose weights it has dequantised
    assert not must_run_attached(model, pytest.fail)


def test_an_attached_engine_measures_what_serving_does() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, given: given * (1.05 if given.shape[1] == 1 else 1))
    asked = [replace(sample, choice_ids=(sample.answer_ids, (5, 6))) for sample in samples(5)]
    gathers, runs = Engine(model, asked, block_size=2), Engine(model, asked, block_size=2, attached=True)
    expected, found = gathers.evaluate_directly(POLICY), runs.evaluate(POLICY)
    for field in fields(expected):
        assert (getattr(found, field.name) == getattr(expected, field.name)).all(), field.name
    assert np.abs(gathers.evaluate(POLICY).nll - found.nll).max() > 1e-4
    texts = [sample.answer_ids for sample in asked]
    nll = -log_likelihoods(runs, POLICY, texts) / [len(text) for text in texts]
    assert np.abs(nll - found.nll).max() < 1e-5
