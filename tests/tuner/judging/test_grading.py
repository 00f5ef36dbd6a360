"""The metric per sample: counted by the engine, or computed on text that is written once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from a2sf_core.context import read_context
from a2sf_core.policy import Policy
from a2sf_core.switch import attach, cache_argument
from studies.samples import Sample
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader, Stopped, generate
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
    assert grader.texts(engine, FULL) == texts
    assert grader.resolution(engine) == 100


def test_texts_end_before_the_first_stop_and_nothing_more_is_generated(
    loaded: tuple[Any, Any], encoded: list[Encoded]
) -> None:
    model, tokenizer = loaded
    whole = generate(model, tokenizer, encoded, FULL, 30)
    stop = (whole[0][3:5], whole[1][6:7], "never written")
    expected = [text[: min([len(text), *(text.find(each) for each in stop if each in text)])].strip() for text in whole]
    assert expected != whole
    steps: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    assert generate(model, tokenizer, encoded, FULL, 30, stop, batch_size=3) == expected
    hook.remove()
    assert len(steps) < 2 * 30, "two batches of 30 tokens each, had they gone on to the end"
    assert Grader("exact_match", model, tokenizer, 30, stop).texts(Engine(model, encoded), FULL) == expected


def test_a_special_token_may_be_a_stop(tokenizer: Any) -> None:
    word, end = tokenizer("lamp", add_special_tokens=False).input_ids[0], tokenizer.eos_token_id
    rows = torch.tensor([[end, word, end], [end, word, word]])
    assert Stopped(tokenizer, (tokenizer.eos_token,), start=1)(rows, None).tolist() == [True, False]


def test_a_stop_that_begins_in_the_prompt_is_none(loaded: tuple[Any, Any], encoded: list[Encoded]) -> None:
    model, tokenizer = loaded
    (whole,) = generate(model, tokenizer, encoded[:1], FULL, 12)
    prompt_end = tokenizer.decode(encoded[0].prompt_ids)[-1]
    assert generate(model, tokenizer, encoded[:1], FULL, 12, (prompt_end + whole[:1],)) == [whole]


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


def test_a_choice_is_right_where_the_right_answer_is_the_likeliest(loaded: tuple[Any, Any], tokenizer: Any) -> None:
    """Against the stock model, one choice of one sample at a time."""
    choices = ("12 euros.", "99 euros.", "the lamp", "Monday")
    made = [
        Sample(f"s{i}", "The lamp costs 12 euros. " * (i + 1), "How much?", choices[i % 4], choices=choices[: 2 + i])
        for i in range(3)
    ]
    encoded = list(encode(made, tokenizer, load_task("knowledge"), 200))
    model, expected = loaded[0], []
    for sample in encoded:
        sums = []
        for ids in sample.choice_ids:
            whole = torch.tensor([[*sample.prompt_ids, *ids]])
            log_probs = model(whole).logits[0].log_softmax(-1)[len(sample.prompt_ids) - 1 : -1]
            sums.append(float(log_probs.gather(-1, torch.tensor(ids)[:, None]).sum()))
        expected.append(float(sums[0] > max(sums[1:])))
    grader = Grader("accuracy", *loaded, 6)
    assert [len(sample.choice_ids) for sample in encoded] == [2, 3, 4]
    assert grader(Engine(model, encoded), FULL).tolist() == expected
    assert grader.resolution(Engine(model, encoded)) == 100


@pytest.mark.parametrize("policy", [FULL, Policy.h2o(2, 0.3), Policy.h2o(2, 0.3, decode_every=1)])
def test_questions_on_one_context_are_answered_from_one_cut(loaded: tuple[Any, Any], policy: Policy) -> None:
    """By the attached model in batches, alone, and by gathering, where the policy allows that."""
    model, tokenizer = loaded
    text = "The lamp costs 12 euros. The red box costs 31 euros. "
    asked = [
        Sample(f"s{i}{question}", text * (i + 1), question, "12 euros.")
        for i in range(3)
        for question in ("How much?", "How much is the lamp?", "What does the red box cost?")
    ]
    made = list(encode(asked, tokenizer, load_task("knowledge").with_cut("context"), 200))
    expected = []
    for sample in made:
        with attach(policy, model):
            cache = read_context(model, torch.tensor([sample.prompt_ids]))
            whole = torch.tensor([sample.whole_prompt])
            output = model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), max_new_tokens=6,
                                    do_sample=False, pad_token_id=0, **{cache_argument(model): cache})  # fmt: skip
        expected.append(tokenizer.decode(output[0, whole.shape[1] :], skip_special_tokens=True).strip())
    assert generate(model, tokenizer, made, policy, 6, batch_size=4) == expected
    assert Grader("exact_match", model, tokenizer, 6).texts(Engine(model, made), policy) == expected
    assert len(set(expected)) > 1
