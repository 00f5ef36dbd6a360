"""Models whose figures hang on how many tokens come at once: noticed, and measured as they serve."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from a2sf_core import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.choosing import log_likelihoods
from tuner.measuring.engine import Engine
from tuner.measuring.gap import largest_gap, must_run_attached

POLICY = Policy.h2o(3, 0.4)


@pytest.fixture
def moody() -> Any:
    """Its first MLP says something else of a token that comes alone, as 4-bit weights of bitsandbytes do on a CPU."""
    model = tiny("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, given: given * (1.05 if given.shape[1] == 1 else 1))
    model.is_quantized = True
    return model


def test_only_a_quantised_model_that_differs_is_run_attached(moody: Any) -> None:
    said: list[str] = []
    engine = Engine(moody, samples(5), block_size=2)
    assert largest_gap(engine, POLICY) > 0.001
    assert must_run_attached(engine, POLICY, said.append)
    assert "the report samples are measured by really running the attached model" in said[0]
    quiet = tiny("llama")
    steady = Engine(quiet, samples(5), block_size=2)
    assert largest_gap(steady, POLICY) < 1e-4
    quiet.is_quantized = True
    assert not must_run_attached(steady, POLICY, said.append)
    del moody.is_quantized
    assert not must_run_attached(engine, POLICY, said.append)
    assert len(said) == 1


def test_an_attached_engine_measures_what_serving_does(moody: Any) -> None:
    asked = [replace(sample, choice_ids=(sample.answer_ids, (5, 6))) for sample in samples(5)]
    gathers, runs = Engine(moody, asked, block_size=2), Engine(moody, asked, block_size=2, attached=True)
    expected, found = gathers.evaluate_directly(POLICY), runs.evaluate(POLICY)
    for field in fields(expected):
        assert (getattr(found, field.name) == getattr(expected, field.name)).all(), field.name
    assert np.abs(gathers.evaluate(POLICY).nll - found.nll).max() > 1e-4
    texts = [sample.answer_ids for sample in asked]
    nll = -log_likelihoods(runs, POLICY, texts) / [len(text) for text in texts]
    assert np.abs(nll - found.nll).max() < 1e-5
