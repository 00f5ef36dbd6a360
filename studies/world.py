"""The generated world of the reference model: support calls, group chats whose plans change, lists of facts.

A scene is a text with everything that can be asked of it. Words and templates live in ``studies/language/*.yaml``; this
file only draws from them. Every draw comes from one ``random.Random``, so a seed string names a scene for good.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

PLAIN = "{key} {value}."


@dataclass(frozen=True)
class Question:
    """One question on a scene. ``kind`` is the slot or topic asked for; ``hard`` marks values that changed.

    ``facts`` are the parts of a long answer that are right or wrong each for itself.
    """

    kind: str
    text: str
    answer: str
    hard: bool = False
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A context and every question that it answers."""

    context: str
    questions: tuple[Question, ...]


@cache
def language(name: str) -> dict[str, Any]:
    """The word lists (``words``) or the templates of a task, read once."""
    return yaml.safe_load((files("studies") / "language" / f"{name}.yaml").read_text(encoding="utf-8"))


def count_tokens(text: str) -> int:
    """Words and punctuation marks: what the reference tokenizer makes of generated text, to within a few per cent."""
    return len(re.findall(r"\w+|[^\w\s]|\n", text))


def _word(rng: random.Random, list_name: str) -> str:
    if list_name == "numbers":
        return str(rng.randint(10, 99))
    return rng.choice(language("words")[list_name])


def _filler(rng: random.Random, templates: list[str]) -> str:
    return rng.choice(templates).format(
        name=_word(rng, "first_names"), town=_word(rng, "cities"), small=_word(rng, "numbers")
    )


def _fill_up(rng: random.Random, lines: list[str], n_tokens: int, filler: Callable[[], str]) -> str:
    """Put filler lines at random places between ``lines`` (whose order stays) until the text has about ``n_tokens``."""
    room = n_tokens - sum(count_tokens(line) + 1 for line in lines)
    extra = []
    while room > 4:
        extra.append(filler())
        room -= count_tokens(extra[-1]) + 1
    slots = sorted(rng.choices(range(len(lines) + 1), k=len(extra)))
    merged = list(lines)
    for slot, line in zip(reversed(slots), extra, strict=True):
        merged.insert(slot, line)
    return "\n".join(merged)


def call(rng: random.Random, n_tokens: int) -> Scene:
    """A support call; its facts come in about this order, each said in one of several ways, with small talk between."""
    text = language("summarisation")
    words = language("words")
    product, second = rng.sample(words["products"], 2)
    problem, fault = rng.sample(words["problems"], 2)
    facts = {
        "customer": _word(rng, "first_names"),
        "city": _word(rng, "cities"),
        "product": product,
        "problem": problem,
        "second": second,
        "fault": fault,
        "action": _word(rng, "actions"),
        "day": _word(rng, "days"),
        "euros": _word(rng, "numbers"),
        "number": _word(rng, "numbers"),
    }
    always = ("customer", "product", "problem")
    said = [slot for slot in text["answers"] if slot in always or rng.random() < 0.85]
    order = sorted(said, key=lambda slot: list(text["answers"]).index(slot) + rng.uniform(0, 1.5))
    lines = [rng.choice(text["opening"])] + [rng.choice(text[slot]).format(**facts) for slot in order]
    context = _fill_up(rng, lines, n_tokens, lambda: _filler(rng, text["filler"]))

    def sentence(template: str) -> str | None:
        template = template if "city" in said else template.replace("{customer} from {city}", "{customer}")
        needed = [slot for slot in text["answers"] if "{" + slot + "}" in template]
        return template.format(**facts) if all(slot in said for slot in needed) else None

    summary = " ".join(filter(None, map(sentence, text["summary"])))
    stated = tuple(filter(None, map(sentence, text["facts"])))
    questions = [Question("summary", rng.choice(text["questions"]["summary"]), summary, facts=stated)]
    questions += [
        Question(slot, rng.choice(text["questions"][slot]), text["answers"][slot].format(**facts)) for slot in said
    ]
    return Scene(context, tuple(questions))


def chat(rng: random.Random, n_tokens: int) -> Scene:
    """A group chat: values of several topics are set and changed; the last word counts."""
    text = language("chat")
    people = rng.sample(language("words")["first_names"], rng.randint(2, 5))
    n_statements = max(2, int(n_tokens * rng.uniform(0.45, 0.7) / 14))
    events = rng.sample(language("words")["events"], min(36, max(2, n_statements // 3)))
    pairs = [(event, topic) for event in events for topic in text["topics"]]
    n_tracks = max(2, int(n_statements / rng.uniform(1.8, 3.0)))
    tracks = rng.sample(pairs, min(n_tracks, len(pairs)))
    values: dict[tuple[str, str], list[str]] = {}
    lines = []
    for _ in range(n_statements):
        new = [track for track in tracks if track not in values]
        track = new[0] if new and (not values or rng.random() < 0.5) else rng.choice(list(values))
        event, topic_name = track
        topic = text["topics"][topic_name]
        value = _word(rng, topic["values"])
        history = values.setdefault(track, [])
        if value in history:
            continue
        template = rng.choice(topic["change"] if history else topic["say"])
        history.append(value)
        lines.append(f"{rng.choice(people)}: {template.format(event=event, value=value)}")
    context = _fill_up(rng, lines, n_tokens, lambda: f"{rng.choice(people)}: {_filler(rng, text['filler'])}")
    questions = tuple(
        Question(
            topic_name,
            rng.choice(text["topics"][topic_name]["ask"]).format(event=event),
            text["topics"][topic_name]["answer"].format(event=event, value=history[-1]),
            hard=len(history) > 1,
        )
        for (event, topic_name), history in values.items()
    )
    return Scene(context, questions)


def knowledge(rng: random.Random, n_tokens: int, plain_lines: float = 0.0, plain_answers: bool = False) -> Scene:
    """Lists of facts of one to four kinds, each with its own keys, with a few other lines between.

    For the beginning of training only: ``plain_lines`` is the share of scenes whose lines are "KEY VALUE.", and
    ``plain_answers`` gives answers of that form.
    """
    text = language("knowledge")
    plain = rng.random() < plain_lines
    kinds = rng.sample(list(text["kinds"]), 1 if plain_answers else rng.randint(1, 4))
    n_facts = max(2, int(n_tokens * rng.uniform(0.6, 0.9) / 11))
    asked: dict[tuple[str, str], str] = {}
    lines = []
    for _ in range(n_facts):
        kind_name = rng.choice(kinds)
        kind = text["kinds"][kind_name]
        key = re.sub(r"\{(\w+)\}", lambda slot: _word(rng, slot[1]), kind["key"])
        if (kind_name, key) in asked:
            continue
        asked[kind_name, key] = value = _word(rng, kind["values"])
        lines.append((PLAIN if plain else rng.choice(kind["say"])).format(key=key, value=value))
    context = _fill_up(rng, lines, n_tokens, lambda: _filler(rng, text["filler"]))
    questions = tuple(
        Question(
            kind_name,
            rng.choice(text["kinds"][kind_name]["ask"]).format(key=key),
            (PLAIN if plain_answers else text["kinds"][kind_name]["answer"]).format(key=key, value=value),
        )
        for (kind_name, key), value in asked.items()
    )
    return Scene(context, questions)


SCENES: dict[str, Callable[[random.Random, int], Scene]] = {
    "summarisation": call,
    "chat": chat,
    "knowledge": knowledge,
}
