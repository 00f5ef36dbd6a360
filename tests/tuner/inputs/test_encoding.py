"""Prompts that fit, answers that begin where the model would begin, parts that do not depend on the file's order."""

from dataclasses import replace
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from studies.samples import bundled_samples
from studies.tokenizer import build
from tests.tuner.inputs.prompts import sample, task, words
from tuner.inputs.encoding import MIN_CONTEXT, encode
from tuner.inputs.tasks import load_task


@pytest.mark.parametrize("name", ["chat", "knowledge", "summarisation"])
def test_bundled_samples_are_encoded_as_in_training(tokenizer: Any, name: str) -> None:
    bundled = load_task(name)
    assert bundled.samples is not None
    samples = bundled_samples(bundled.samples, 10)
    encoded = encode(samples, tokenizer, bundled, 2048)
    assert encoded.n_truncated == 0
    assert encoded.dropped == ()
    for each, made in zip(samples, encoded, strict=True):
        context, prompt, answer = tokenizer(
            [each.context, f"\nQuestion: {each.question}\nAnswer:", each.answer], add_special_tokens=False
        ).input_ids
        assert made.id == each.id
        assert list(made.prompt_ids) == [tokenizer.bos_token_id, *context, *prompt]
        assert list(made.answer_ids) == [*answer, tokenizer.eos_token_id]
        assert made.answer == each.answer
        assert not made.truncated


def test_a_prompt_that_ends_in_a_space_leaves_the_space_to_the_answer(tokenizer: Any) -> None:
    plain = encode([sample(words(20))], tokenizer, task("{context} {question} Answer:"), 500)[0]
    spaced = encode([sample(words(20))], tokenizer, task("{context} {question} Answer: "), 500)[0]
    assert spaced.prompt_ids == plain.prompt_ids
    assert spaced.answer_ids == plain.answer_ids


def test_an_eos_that_the_tokenizer_adds_is_not_in_the_prompt_and_not_twice_in_the_answer(tokenizer: Any) -> None:
    from tokenizers import processors

    closing = build(30, "test")
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ours = encode([sample(words(20))], closing, task(), 500)[0]
    assert ours == encode([sample(words(20))], tokenizer, task(), 500)[0]
    assert ours.answer_ids.count(2) == 1
    without = encode([sample(words(20))], closing, task().model_copy(update={"eos": False}), 500)[0]
    assert without.answer_ids == ours.answer_ids[:-1]


def test_likelihood_and_prompt_take_the_first_answer_and_texts_are_held_to_all(tokenizer: Any) -> None:
    one = sample(words(20), answer="On Monday.")
    made = encode([replace(one, other_answers=("Monday.",))], tokenizer, task(), 500)[0]
    assert made.references == ("On Monday.", "Monday.")
    assert replace(made, other_answers=()) == encode([one], tokenizer, task(), 500)[0]


def test_without_eos_the_answer_just_ends() -> None:
    tokenizer = build(30, "test")
    tokenizer.eos_token = None
    made = encode([sample(words(20))], tokenizer, task(), 500)[0]
    assert tokenizer.decode(made.answer_ids) == "It is on Monday."


def test_a_task_may_leave_eos_out_of_the_answer(tokenizer: Any) -> None:
    plain, without = task(), task().model_copy(update={"eos": False})
    closed = encode([sample(words(20))], tokenizer, plain, 500)[0]
    made = encode([sample(words(20))], tokenizer, without, 500)[0]
    assert closed.answer_ids == (*made.answer_ids, tokenizer.eos_token_id)
    assert made.prompt_ids == closed.prompt_ids


def test_braces_in_samples_are_text(tokenizer: Any) -> None:
    made = encode([sample("{context} {0} " + words(5), question="{x}?")], tokenizer, task(), 500)[0]
    assert "{context} {0}" in tokenizer.decode(made.prompt_ids)


def test_the_middle_of_the_context_is_cut(tokenizer: Any) -> None:
    text = "FIRST " + words(500) + " LAST"
    made = encode([sample(text)], tokenizer, task(), 100)
    read = tokenizer.decode(made[0].prompt_ids)
    assert made.n_truncated == 1
    assert made[0].truncated
    assert read.startswith("<s> FIRST 10 11")
    assert "LAST\nQuestion: When?\nAnswer:" in read
    assert len(made[0].prompt_ids) + len(made[0].answer_ids) == 100
    question = tokenizer("\nQuestion: When?\nAnswer:", add_special_tokens=False).input_ids
    assert list(made[0].prompt_ids[-len(question) :]) == question


def test_every_context_may_be_longer_than_the_model(tokenizer: Any) -> None:
    long = [sample(words(3000 + index), name=str(index)) for index in range(5)]
    made = encode(long, tokenizer, task(), 128)
    assert (len(made), made.n_truncated, made.dropped) == (5, 5, ())


def test_room_is_kept_for_what_may_be_generated(tokenizer: Any) -> None:
    made = encode([sample(words(500))], tokenizer, task(max_new_tokens=40), 100)[0]
    assert len(made.prompt_ids) == 60


def test_exactly_fitting_contexts_are_left_whole(tokenizer: Any) -> None:
    whole = encode([sample(words(50))], tokenizer, task(), 10_000)[0]
    needed = len(whole.prompt_ids) + len(whole.answer_ids)
    assert encode([sample(words(50))], tokenizer, task(), needed)[0] == whole
    assert encode([sample(words(50))], tokenizer, task(), needed - 1)[0].truncated


def test_a_slow_tokenizer_without_offsets_cuts_too(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = encode([sample(words(500))], tokenizer, task(), 100)[0]
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    slow = encode([sample(words(500))], tokenizer, task(), 100)[0]
    assert slow.truncated
    assert len(slow.prompt_ids) + len(slow.answer_ids) <= 100
    assert slow.prompt_ids[:20] == fast.prompt_ids[:20]


def test_text_of_many_bytes_per_character_fits(tokenizer: Any) -> None:
    made = encode([sample("日本語のとても長い文章 🙂" * 50)], tokenizer, task(), 150)[0]
    assert 100 < len(made.prompt_ids) + len(made.answer_ids) <= 150
    assert tokenizer.decode(made.prompt_ids).startswith("<s> 日本語")


def test_a_long_context_is_tokenised_once_for_all_its_questions(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = words(5000)
    seen = []
    call = type(tokenizer).__call__

    def counting(self: Any, text: str, **kwargs: Any) -> Any:
        seen.append(text)
        return call(self, text, **kwargs)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    encode([sample(context, question=q, name=q) for q in ("A?", "B?", "C?")], tokenizer, task(), 128)
    assert sum(context in text for text in seen) == 1


def test_samples_that_do_not_fit_are_dropped_and_named(tokenizer: Any) -> None:
    fits = sample(words(300), name="fits")
    long_answer = sample(words(300), answer=words(200), name="answer")
    long_question = sample(words(300), question=words(200), name="question")
    made = encode([long_answer, fits, long_question], tokenizer, task(), 128)
    assert [each.id for each in made] == ["fits"]
    assert made.dropped == ("answer", "question")


def test_a_short_context_is_no_reason_to_drop(tokenizer: Any) -> None:
    assert len(encode([sample("Monday.")], tokenizer, task(), 128)) == 1


def test_nothing_fits(tokenizer: Any) -> None:
    with pytest.raises(A2SFError) as caught:
        encode([sample(words(300))], tokenizer, task(max_new_tokens=100), 120)
    message = str(caught.value)
    assert "No sample fits the model's 120 tokens: in 's' the answer and max_new_tokens need 100" in message
    assert f"of at least {MIN_CONTEXT} for the context; lower max_new_tokens of task 't'" in message


def test_a_beginning_that_the_prompt_writes_out_is_there_once(tokenizer: Any) -> None:
    plain = encode([sample(words(20))], tokenizer, task("{context} {question} Answer:"), 500)[0]
    written = task(f"{tokenizer.bos_token}{{context}} {{question}} Answer:")
    assert encode([sample(words(20))], tokenizer, written, 500)[0].prompt_ids == plain.prompt_ids
