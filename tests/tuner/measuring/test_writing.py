"""Texts over gathered caches: those that the attached model writes, whoever was asked before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from a2sf_core.policy import Policy
from a2sf_core.switch import attach
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends
from tuner.measuring.writing import Writer

MOST = 7
POLICIES = [Policy.full(3), Policy.h2o(3, 0.5), Policy.tova(3, 0.1), Policy.h2o(3, 0.05)]


def served(model: Any, prompt: tuple[int, ...], policy: Policy, ends: Ends) -> tuple[int, ...]:
    """Greedily with the attached model, one prompt alone."""
    ids = torch.tensor([prompt])
    with attach(policy, model):
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ends.most, do_sample=False,
                                eos_token_id=list(ends.tokens) or None, pad_token_id=0)  # fmt: skip
    return tuple(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_texts_are_those_of_the_attached_model(kind: str) -> None:
    model = tiny(kind)
    made = samples(12)
    free = Writer(Engine(model, made, block_size=5), Ends(MOST, frozenset())).drafts()
    some = frozenset({free[0][2], free[3][1], free[7][4]})
    for ends in (Ends(MOST, frozenset()), Ends(MOST, some)):
        writer = Writer(Engine(model, made, block_size=5), ends)
        for policy in POLICIES:
            expected = [served(model, sample.prompt_ids, policy, ends) for sample in made]
            found = writer.texts(policy, range(len(made)))
            assert [found[row] for row in range(len(made))] == expected
            drafts = [served(model, sample.prompt_ids, POLICIES[0], ends) for sample in made]
            assert writer.same(policy).tolist() == [a == b for a, b in zip(expected, drafts, strict=True)]


def test_only_the_rows_asked_for_are_written() -> None:
    writer = Writer(Engine(tiny("llama"), samples(12), block_size=5), Ends(MOST, frozenset()))
    whole = writer.texts(POLICIES[3], range(12))
    assert writer.texts(POLICIES[3], [7, 2]) == {7: whole[7], 2: whole[2]}


def test_a_text_is_over_where_it_is_said_to_be() -> None:
    made = samples(6)
    writer = Writer(Engine(tiny("llama"), made), Ends(MOST, frozenset(), lambda text: len(text) >= 3))
    assert {len(text) for text in writer.texts(POLICIES[1], range(6)).values()} == {3}


def test_a_reference_that_the_model_would_write_is_its_own_draft() -> None:
    """And costs no writing: nothing is read token by token."""
    model, made = tiny("llama"), samples(6)
    ends = Ends(MOST, frozenset())
    texts = [served(model, sample.prompt_ids, POLICIES[0], ends) for sample in made]
    right = [type(sample)(**{**vars(sample), "answer_ids": text}) for sample, text in zip(made, texts, strict=True)]
    engine = Engine(model, right)
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert Writer(engine, ends).drafts() == texts
    hook.remove()
    assert len(calls) == engine.n_blocks
