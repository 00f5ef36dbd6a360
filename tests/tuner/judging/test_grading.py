"""The metric per sample: counted by the engine, or computed on text that is written once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.policy import Policy
from a2sf_core.switch import attach
from studies.samples import Sample
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader, generate
from tuner.measuring.engine import Engine

FULL, HALF = Policy.full(2), Policy.h2o(2, 0.5)


@pytest.fixture(scope="module")
def encoded(tokenizer: Any) -> list[Encoded]:
    made = [Sample(f"s{i}", "The lamp costs 12 euros. " * (i + 1), "How much?", "12 euros.") for i in range(5)]
    return list(encode(made, tokenizer, load_task("knowledge"), 200))


def alone(model: Any, tokenizer: Any, sample: Encoded, policy: Policy) -> str:
    prompt = torch.tensor([sample.prompt_ids])
    with attach(policy, model):
        output = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6,
                                do_sample=False, pad_token_id=0)  # fmt: skip
    return tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("policy", [FULL, HALF], ids=["full", "half"])
def test_texts_written_in_batches_are_those_written_alone(
    loaded: tuple[Any, Any], encoded: list[Encoded], policy: Policy
) -> None:
    expected = [alone(*loaded, sample, policy) for sample in encoded]
    assert len(set(expected)) > 1
    assert generate(*loaded, encoded, policy, 6, batch_size=3) == expected


def test_a_text_is_graded_against_its_own_reference(loaded: tuple[Any, Any], encoded: list[Encoded]) -> None:
    texts = generate(*loaded, encoded, FULL, 6)
    half_right = [
        replace(sample, answer=text if place % 2 else "wrong")
        for place, (sample, text) in enumerate(zip(encoded, texts, strict=True))
    ]
    engine = Engine(loaded[0], half_right)
    grader = Grader("exact_match", *loaded, 6)
    assert grader(engine, FULL).tolist() == [0, 1, 0, 1, 0]
    assert grader.on(engine, FULL, np.array([3, 0])).tolist() == [1, 0]
    assert grader.texts(engine, FULL) == texts
    assert grader.resolution(engine) == 100


def test_the_best_of_several_references_counts(loaded: tuple[Any, Any], encoded: list[Encoded]) -> None:
    texts = generate(*loaded, encoded, FULL, 6)
    others = [
        replace(sample, answer="wrong", other_answers=("wrong too", text) if place % 2 else ("wrong too",))
        for place, (sample, text) in enumerate(zip(encoded, texts, strict=True))
    ]
    assert Grader("exact_match", *loaded, 6)(Engine(loaded[0], others), FULL).tolist() == [0, 1, 0, 1, 0]


def test_token_accuracy_is_the_engines(loaded: tuple[Any, Any], encoded: list[Encoded]) -> None:
    engine = Engine(loaded[0], encoded)
    grader = Grader("token_accuracy", *loaded, 6)
    assert (grader(engine, HALF) == engine.evaluate(HALF).accuracy).all()
    assert grader.resolution(engine) == pytest.approx(100 / len(encoded[0].answer_ids))
