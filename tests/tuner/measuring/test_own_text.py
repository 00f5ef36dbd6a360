"""The second text: what the full cache writes, and what policies lose along it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.policy import Policy
from tests.tuner.measuring.test_engine import RAGGED, answer_alone
from tests.tuner.measuring.test_writing import MOST, served
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.measuring.texts import Ends
from tuner.measuring.writing import Writer

FULL = Policy.full(3)
ENDS = Ends(MOST, frozenset({5, 17, 40}))


# RAGGED has budgets for two KV heads, and OPT has four.
@pytest.mark.parametrize(
    ("kind", "policy"),
    [(kind, Policy.h2o(3, 0.3, evict=evict)) for kind in ("llama", "opt") for evict in ("prefill", "step")]
    + [("llama", RAGGED)],
    ids=str,
)
def test_both_texts_are_judged_as_if_each_were_the_answer(kind: str, policy: Policy) -> None:
    model, data = tiny(kind), samples(7)
    engine = Engine(model, data, batch_tokens=150, block_size=4, ends=ENDS)
    both = engine.evaluate(policy)
    own = [replace(sample, answer_ids=served(model, sample.prompt_ids, FULL, ENDS)) for sample in data]
    along_reference, along_own = (Engine(model, some, block_size=4).evaluate(policy) for some in (data, own))
    wanted = (along_reference.reference_kl, along_own.reference_kl, along_own.changed)
    for got, expected in zip((both.reference_kl, both.own_kl, both.own_changed), wanted, strict=True):
        assert np.abs(got - expected).max() < 1e-5
    assert np.abs(both.kl - (along_reference.kl + along_own.kl) / 2).max() < 1e-5
    assert np.abs(both.nll - [answer_alone(model, sample, policy)[0] for sample in data]).max() < 1e-4


@pytest.mark.parametrize("memory", [None, 1], ids=["held", "read again"])
def test_own_texts_are_what_is_served_and_the_writer_takes_them_as_they_are(memory: int | None) -> None:
    model, data = tiny("llama"), samples(9)
    engine = Engine(model, data, block_size=3, ends=ENDS, memory=memory)
    expected = [served(model, sample.prompt_ids, FULL, ENDS) for sample in data]
    assert [engine.own_texts(ENDS)[row] for row in range(9)] == expected
    assert engine.own_texts(Ends(MOST + 1, frozenset())) == {}
    assert _forwards(model, lambda: Writer(engine, ENDS).drafts()) == 0


def test_progress_counts_prompts_and_texts() -> None:
    told: list[tuple[int, int]] = []
    Engine(tiny("llama"), samples(9), block_size=3, ends=ENDS, progress=lambda *at: told.append(at))
    assert told == [(done, 18) for done in range(1, 19)] + [(18, 18)]


def test_a_reference_that_the_model_would_write_adds_nothing() -> None:
    model = tiny("llama")
    right = [replace(sample, answer_ids=served(model, sample.prompt_ids, FULL, ENDS)) for sample in samples(6)]
    alone, both = Engine(model, right), Engine(model, right, ends=ENDS)
    policy = Policy.h2o(3, 0.2)
    assert _forwards(model, lambda: both.evaluate(policy)) == _forwards(model, lambda: alone.evaluate(policy))
    losses = both.evaluate(policy)
    assert (losses.kl == losses.reference_kl).all()
    assert (losses.kl == losses.own_kl).all()


def test_prompts_that_are_read_again_are_not_written_again() -> None:
    model, data = tiny("llama"), samples(9)
    stored, read_again = (Engine(model, data, block_size=9, ends=ENDS, memory=memory) for memory in (None, 1))
    policy = Policy.h2o(3, 0.2)
    assert _steps(model, lambda: Engine(model, data, block_size=9, ends=ENDS)) > 0
    assert _steps(model, lambda: read_again.evaluate(policy)) == 0
    for field in vars(stored.evaluate(policy)):
        assert np.array_equal(_figure(stored.evaluate(policy), field), _figure(read_again.evaluate(policy), field))


def _figure(losses: Losses, field: str) -> np.ndarray:
    found: np.ndarray = getattr(losses, field)
    return found


def _lengths(model: Any, run: Any) -> list[int]:
    """Tokens read in each forward of `run`."""
    lengths: list[int] = []

    def note(_model: Any, positional: Any, named: Any) -> None:
        lengths.append((*positional, named.get("input_ids"))[0].shape[1])

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        run()
    hook.remove()
    return lengths


def _forwards(model: Any, run: Any) -> int:
    return len(_lengths(model, run))


def _steps(model: Any, run: Any) -> int:
    """Forwards that write: in one batch no text that is followed is as short as two tokens."""
    return sum(length == 1 for length in _lengths(model, run))
