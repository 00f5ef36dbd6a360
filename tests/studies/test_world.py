"""The generated world: answers are in the text, seeds name scenes for good, study samples are not training samples."""

from __future__ import annotations

import random
import re

import pytest

from studies.samples import SampleSpec, bundled_samples
from studies.world import SCENES, count_tokens, language


@pytest.mark.parametrize("task", SCENES)
@pytest.mark.parametrize("n_tokens", [130, 500, 1000])
def test_length_and_determinism(task: str, n_tokens: int) -> None:
    for index in range(10):
        scene = SCENES[task](random.Random(f"t{index}"), n_tokens)
        assert scene == SCENES[task](random.Random(f"t{index}"), n_tokens)
        assert abs(count_tokens(scene.context) - n_tokens) < 25
        assert scene.questions


def test_every_word_of_an_answer_stands_in_the_text_or_in_the_templates() -> None:
    fixed = {
        "summarisation": "called about the from it also the we is done on refund euros reference number case",
        "chat": "the is on in leads has guests",
        "knowledge": "the costs euros is in room lives closed on",
    }
    for task, words in fixed.items():
        for index in range(30):
            scene = SCENES[task](random.Random(f"a{index}"), 300)
            text = set(re.findall(r"\w+", scene.context.lower())) | set(words.split())
            for question in scene.questions:
                asked = set(re.findall(r"\w+", question.text.lower()))
                answer = set(re.findall(r"\w+", question.answer.lower()))
                assert answer <= text | asked, (task, question, scene.context)


def test_the_last_word_counts_in_a_chat() -> None:
    changed = 0
    for index in range(40):
        scene = SCENES["chat"](random.Random(f"c{index}"), 400)
        for question in scene.questions:
            event = next(e for e in language("words")["events"] if f" {e}" in question.text)
            topic = language("chat")["topics"][question.kind]
            statements = [
                line.partition(": ")[2]
                for line in scene.context.split("\n")
                if any(
                    re.fullmatch(
                        re.escape(t.format(event=event, value="@")).replace("@", "(.+)"), line.partition(": ")[2]
                    )
                    for t in topic["say"] + topic["change"]
                )
            ]
            assert statements, question
            value = re.fullmatch(
                re.escape(topic["answer"].format(event=event, value="@")).replace("@", "(.+)"), question.answer
            )
            assert value is not None
            assert value[1] in statements[-1]
            changed += question.hard
    assert changed > 100


def test_there_is_language_variety() -> None:
    def sentences(node: object) -> int:
        if isinstance(node, dict):
            return sum(map(sentences, node.values()))
        return sum(map(sentences, node)) if isinstance(node, list) else " " in str(node)

    assert sum(sentences(language(name)) for name in SCENES) > 300
    assert sum(len(words) for words in language("words").values()) > 450


def test_samples_are_distinct_and_the_same_in_any_range() -> None:
    spec = SampleSpec(scene="knowledge", seed="study-1", tokens=(128, 1024), search=4, select=4, report=4)
    samples = bundled_samples(spec, 12)
    assert samples[5:8] == bundled_samples(spec, 3, first=5)
    assert len({sample.context for sample in samples}) == 12
