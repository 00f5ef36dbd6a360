"""Cut before the question: where the context ends, in text and in tokens, whatever stands around it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from studies.samples import SampleSpec, bundled_samples
from tests.tuner.inputs.prompts import sample, task, words
from tests.tuner.inputs.test_prompting import EXAMPLES, TEMPLATE
from tuner.inputs.check import check
from tuner.inputs.encoding import encode
from tuner.inputs.splits import encode_and_split
from tuner.inputs.tasks import Task, bundled_tasks, load_task
from tuner.settings import Settings


def cut(**fields: Any) -> Task:
    return Task.model_validate({**task().model_dump(), "cut": "context", **fields})


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    """The tests' tokenizer with a chat template."""
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    return chatty


def test_the_prompt_falls_into_context_and_question(tokenizer: Any) -> None:
    whole = encode([sample(words(20))], tokenizer, task(), 500)[0]
    one = encode([sample(words(20))], tokenizer, cut(), 500)[0]
    assert one.whole_prompt == whole.prompt_ids == whole.whole_prompt
    assert tokenizer.decode(one.prompt_ids) == f"<s> {words(20)}"
    assert tokenizer.decode(one.question_ids) == "\nQuestion: When?\nAnswer:"
    assert replace(one, prompt_ids=whole.prompt_ids, question_ids=()) == whole


def test_all_questions_on_a_context_share_its_tokens(tokenizer: Any) -> None:
    asked = [sample(words(20), question=question, name=question) for question in ("A?", "When then?", "")]
    made = encode(asked, tokenizer, cut(default_question="What?"), 500)
    assert len({each.prompt_ids for each in made}) == 1
    assert len({each.question_ids for each in made}) == 3


@pytest.mark.parametrize("prompt", ["{context}{question}", "{context} {question}:", "<<{context}>>\n\n{question}"])
@pytest.mark.parametrize("context", ["It is the 3", "line \n", "日本 🙂", "a {question} b", ""])
def test_no_token_of_the_question_is_read_before_the_cut(tokenizer: Any, prompt: str, context: str) -> None:
    """A token that holds the end of the context and what follows it belongs to the question."""
    written = prompt.format(context=context, question="7 of them?")
    before = prompt.partition("{context}")[0] + context
    one = encode([sample(context, question="7 of them?")], tokenizer, cut(prompt=prompt), 500)[0]
    assert (
        one.whole_prompt
        == encode([sample(written, question="")], tokenizer, task("{context}{question}"), 500)[0].prompt_ids
    )
    read = tokenizer.decode(one.prompt_ids, skip_special_tokens=True).strip()
    assert before.strip().startswith(read.rstrip("\ufffd"))
    longer = len(tokenizer.decode(one.whole_prompt[: len(one.prompt_ids) + 1], skip_special_tokens=True).strip())
    assert longer >= len(before.strip()), "as much of the context as whole tokens hold"


def test_what_stands_before_the_context_is_read_with_it(chatty: Any) -> None:
    chat = cut(chat_template="auto", system="Be brief.", examples=EXAMPLES, answer_prefix="It costs")
    one = encode([sample("It is free.", question="What?")], chatty, chat, 500)[0]
    assert chatty.decode(one.prompt_ids) == (
        "<s> [system] Be brief.</s>\n[user] It is 3 euros.\nQuestion: How much?\nAnswer:</s>\n"
        "[assistant] It costs 3 euros</s>\n[user] It is free."
    )
    assert chatty.decode(one.question_ids) == "\nQuestion: What?\nAnswer:</s>\n[assistant] It costs"


def test_a_context_that_is_too_long_is_cut_alike_for_all_its_questions(tokenizer: Any) -> None:
    context = words(500)
    asked = [sample(context, question=question, name=question) for question in ("A?", words(15), words(40))]
    made = encode(asked, tokenizer, cut(), 200)
    assert len({each.prompt_ids for each in made}) == 1
    assert all(each.truncated for each in made)
    assert max(len(each.whole_prompt) + len(each.answer_ids) for each in made) == 200


def test_a_template_that_changes_the_text_is_refused(chatty: Any) -> None:
    chatty.chat_template = TEMPLATE.replace("{{ m.content | trim }}", "{{ m.content | replace('\ue000', '') }}")
    with pytest.raises(A2SFError, match="write chat_template: off or cut: prompt in task 't'"):
        encode([sample("It is free.")], chatty, cut(chat_template="auto"), 500)


def test_a_prompt_that_asks_first_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("include: chat.yaml\nprompt: '{question} {context}'\n")
    assert load_task(str(file)).cut == "prompt"
    with pytest.raises(A2SFError, match=r"--cut context: .* put {context} before {question}, or write cut: prompt."):
        check(Settings(str(file), 1, cut="context"))
    file.write_text(file.read_text() + "cut: context\n")
    with pytest.raises(A2SFError, match=r"mine.yaml: .* the question is known before the context ends"):
        load_task(str(file))
    with pytest.raises(A2SFError, match="field 'cut' is 'answer': input should be 'prompt' or 'context'"):
        check(Settings("chat", 1, cut="answer"))


def test_the_option_goes_before_the_file() -> None:
    assert check(Settings("knowledge", 1)).task == load_task("knowledge")
    early = check(Settings("knowledge", 1, cut="context")).task
    assert early.cut == "context"
    assert early.digest() != load_task("knowledge").digest()
    assert check(Settings("knowledge-shared", 1, cut="prompt")).task.cut == "prompt"


def test_the_bundled_task_asks_several_questions_on_each_context(tokenizer: Any) -> None:
    shared = load_task("knowledge-shared")
    assert "knowledge-shared" in bundled_tasks()
    assert shared.samples is not None
    made = bundled_samples(shared.samples, 40)
    assert bundled_samples(shared.samples, 6, first=7) == made[7:13]
    assert len({each.context for each in made}) == 10
    assert len({(each.context, each.question) for each in made}) == 40
    assert len({each.id for each in made}) == 40
    few = shared.model_copy(
        update={"samples": shared.samples.model_copy(update={"search": 8, "select": 8, "report": 8})}
    )
    parts, remark = encode_and_split(bundled_samples(few.samples, 24), few, Settings("x", 1), tokenizer, 4000)
    assert remark == ""
    assert parts.shared_contexts == 0
    assert [len(part) for part in (parts.search, parts.select, parts.report)] == [8, 8, 8]


def test_questions_of_a_hard_scene_come_first() -> None:
    spec = SampleSpec(
        scene="chat", seed="s", tokens=(256, 512), hard_share=1, questions=3, search=3, select=3, report=3
    )
    assert len({each.question for each in bundled_samples(spec, 3)}) == 3


def test_parts_hold_whole_contexts() -> None:
    with pytest.raises(ValueError, match="select is 4, which is no multiple of the 3 questions on each context"):
        SampleSpec(scene="chat", seed="s", tokens=(256, 512), questions=3, search=3, select=4, report=3)
