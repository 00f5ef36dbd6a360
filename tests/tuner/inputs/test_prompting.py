"""What stands around context and question: examples, the chat template, the start of the answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from tests.tuner.inputs.prompts import sample, task, words
from tuner.inputs.encoding import encode
from tuner.inputs.prompting import Prompting
from tuner.inputs.tasks import Example, Task

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
EXAMPLES = (Example(context="It is 3 euros.", question="How much?", answer="3 euros"),)


def made(**fields: Any) -> Task:
    return Task.model_validate({**task().model_dump(), **fields})


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    """The tests' tokenizer with a chat template."""
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    return chatty


def test_examples_are_laid_before_the_prompt_in_its_own_form(tokenizer: Any) -> None:
    text = Prompting(made(examples=EXAMPLES, answer_prefix="It costs"), tokenizer).text("It is free.", "What?")
    assert text == (
        "It is 3 euros.\nQuestion: How much?\nAnswer: It costs 3 euros\n\n"
        "It is free.\nQuestion: What?\nAnswer: It costs"
    )


def test_the_prefix_is_read_and_not_written(tokenizer: Any) -> None:
    one = encode([sample("It is a lamp.")], tokenizer, made(answer_prefix="I think:"), 500)[0]
    plain = encode([sample("It is a lamp.")], tokenizer, made(), 500)[0]
    assert tokenizer.decode(one.prompt_ids).endswith("Answer: I think:")
    assert one.answer_ids == plain.answer_ids


def test_no_space_follows_an_opening_sign(tokenizer: Any) -> None:
    prompting = Prompting(made(answer_prefix='{"answer": "'), tokenizer)
    assert prompting.space_after(prompting.text("a", "b")) == ""


def test_the_template_has_system_examples_and_prompt_as_turns(chatty: Any) -> None:
    chat = made(chat_template="auto", system="Be brief.", examples=EXAMPLES, answer_prefix="It costs")
    assert Prompting(chat, chatty).text("It is free.", "What?") == (
        "<s>[system] Be brief.</s>\n"
        "[user] It is 3 euros.\nQuestion: How much?\nAnswer:</s>\n[assistant] It costs 3 euros</s>\n"
        "[user] It is free.\nQuestion: What?\nAnswer:</s>\n[assistant] It costs"
    )


def test_special_tokens_of_the_template_are_not_added_again(chatty: Any) -> None:
    one = encode([sample(words(20))], chatty, made(chat_template="auto"), 500)[0]
    assert one.prompt_ids.count(chatty.bos_token_id) == 1
    assert one.prompt_ids.count(chatty.eos_token_id) == 1, "the end of the user's turn"
    assert chatty.decode((*one.prompt_ids, *one.answer_ids)).endswith("[assistant] It is on Monday.</s>")
    assert one.answer_ids.count(chatty.eos_token_id) == 1


def test_the_answer_begins_where_the_template_would_begin_it(chatty: Any) -> None:
    for opening in ("[assistant]\n", "[assistant] ", "[assistant]"):
        chatty.chat_template = TEMPLATE.replace("[{{ m.role }}] ", "[{{ m.role }}]" + opening[11:]).replace(
            "[assistant]{% endif", opening + "{% endif"
        )
        prompting = Prompting(made(chat_template="auto"), chatty)
        assert prompting.space_after(prompting.text("a", "b")) == ""


def test_only_the_middle_of_the_context_is_cut(chatty: Any) -> None:
    chat = made(chat_template="auto", system="Be brief.", examples=EXAMPLES)
    cut = encode([sample("FIRST " + words(500) + " LAST")], chatty, chat, 200)
    read = chatty.decode(cut[0].prompt_ids)
    assert cut.n_truncated == 1
    assert len(cut[0].prompt_ids) + len(cut[0].answer_ids) <= 200
    for kept in ("[system] Be brief.", "[assistant] 3 euros", "[user] FIRST 10 11", "LAST\nQuestion: When?\nAnswer:"):
        assert kept in read


def test_auto_is_the_plain_prompt_where_there_is_no_template(tokenizer: Any) -> None:
    auto = encode([sample(words(20))], tokenizer, made(chat_template="auto"), 500)
    assert auto == encode([sample(words(20))], tokenizer, made(), 500)


def test_a_template_is_left_alone_unless_asked_for(tokenizer: Any, chatty: Any) -> None:
    assert encode([sample(words(20))], chatty, made(), 500) == encode([sample(words(20))], tokenizer, made(), 500)


def test_a_system_message_without_a_template_is_not_dropped_in_silence(tokenizer: Any) -> None:
    with pytest.raises(A2SFError, match="'t' has a system message, but the tokenizer has no chat template"):
        Prompting(made(chat_template="auto", system="Be brief."), tokenizer)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ raise_exception('System role\\nnot supported') }}", "(System role not supported)"),
        ("{% for %}", "(Expected"),
    ],
)
def test_a_template_that_fails_is_quoted_in_one_line(chatty: Any, template: str, expected: str) -> None:
    chatty.chat_template = template
    with pytest.raises(A2SFError) as caught:
        Prompting(made(chat_template="auto"), chatty)
    assert f"The tokenizer's chat template fails {expected}" in str(caught.value)
    assert str(caught.value).endswith("mend it, or write chat_template: off in task 't'.")
    assert "\n" not in str(caught.value)
