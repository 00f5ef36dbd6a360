"""The bundled samples of a task: questions on generated scenes, made from a seed instead of stored."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from studies.world import SCENES, Question

# The same text as studies.train.SEED, which is not imported because it brings torch; a test compares the two.
TRAINING_SEED = "reference-model-1"

# How often a scene is drawn again when it holds no question of the wanted kinds (a list of facts holds some
# kinds only).
DRAWS = 200

MOST_SAMPLES = 100_000
"""Of one part; they are all made before the first is read."""


@dataclass(frozen=True)
class Sample:
    """One line of a task's data: what the model reads, what it is asked, the reference answer.

    ``other_answers`` would be as right as ``answer``, which is the one that likelihoods are computed on. ``facts`` are
    texts that a right answer states, each for itself; ``choices`` are answers to choose from, ``answer`` among them.
    """

    id: str
    context: str
    question: str
    answer: str
    other_answers: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.answer, *self.other_answers)


class SampleSpec(BaseModel):
    """How the samples of a task are made: the ``samples`` part of its YAML file.

    ``kinds`` are the kinds of question to ask (none named: all); ``hard_share`` is the share of samples that
    ask for a value that changed; ``tokens`` bounds the length of a context, drawn evenly on a log scale. Each
    context is asked ``questions`` different questions, one sample each, and stays in one part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scene: str
    seed: Annotated[str, Field(min_length=1)]
    tokens: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(le=100_000)]]
    kinds: tuple[str, ...] = ()
    hard_share: Annotated[float, Field(ge=0, le=1)] | None = None
    questions: Annotated[int, Field(ge=1, le=100)] = 1
    search: Annotated[int, Field(ge=2, le=MOST_SAMPLES)]
    select: Annotated[int, Field(ge=2, le=MOST_SAMPLES)]
    report: Annotated[int, Field(ge=2, le=MOST_SAMPLES)]

    @field_validator("scene")
    @classmethod
    def _known_scene(cls, scene: str) -> str:
        if scene not in SCENES:
            raise ValueError(f"is {scene!r}, expected one of {', '.join(SCENES)}")
        return scene

    @field_validator("seed")
    @classmethod
    def _not_seen_in_training(cls, seed: str) -> str:
        if seed.startswith(TRAINING_SEED):
            raise ValueError(f"is {seed!r}, which the reference model was trained on; use another, such as 'study-1'")
        return seed

    @field_validator("tokens")
    @classmethod
    def _ascending(cls, tokens: tuple[int, int]) -> tuple[int, int]:
        if tokens[0] > tokens[1]:
            raise ValueError(f"is {list(tokens)}, expected the shorter length first")
        return tokens

    @model_validator(mode="after")
    def _known_kinds(self) -> SampleSpec:
        for kind in self.kinds:
            if kind not in kinds_of(self.scene):
                raise ValueError(
                    f"kinds has {kind!r}, which a {self.scene} scene never asks; "
                    f"expected some of {', '.join(kinds_of(self.scene))}"
                )
        return self

    @model_validator(mode="after")
    def _whole_contexts(self) -> SampleSpec:
        for name in ("search", "select", "report"):
            if getattr(self, name) % self.questions:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which is no multiple of the {self.questions} questions on each "
                    "context"
                )
        return self

    @property
    def total(self) -> int:
        """Samples of all three parts."""
        return self.search + self.select + self.report


@cache
def kinds_of(scene: str) -> tuple[str, ...]:
    """Every kind of question a scene asks, found by looking at some: each scene declares them its own way."""
    drawn = (SCENES[scene](random.Random(f"kinds:{index}"), 400) for index in range(40))
    return tuple(sorted({question.kind for each in drawn for question in each.questions}))


def bundled_samples(spec: SampleSpec, count: int, first: int = 0) -> list[Sample]:
    """Samples ``first`` to ``first + count - 1``. Each context has its own random numbers: 17 is 17 in any range."""
    wanted = range(first, first + count)
    contexts = sorted({index // spec.questions for index in wanted})
    made = {context * spec.questions + place: sample
            for context in contexts for place, sample in enumerate(_samples(spec, context))}  # fmt: skip
    return [made[index] for index in wanted]


def _samples(spec: SampleSpec, index: int) -> list[Sample]:
    """All samples on context ``index``."""
    rng = random.Random(f"{spec.seed}:{spec.scene}:{index}")
    shortest, longest = spec.tokens
    n_tokens = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
    hard = None if spec.hard_share is None else rng.random() < spec.hard_share
    for _ in range(DRAWS):
        scene = SCENES[spec.scene](rng, n_tokens)
        asked = [question for question in scene.questions if not spec.kinds or question.kind in spec.kinds]
        if len(asked) >= spec.questions:
            chosen = _drawn(rng, asked, hard, spec.questions)
            name = f"{spec.scene}-{index:05d}"
            names = [name] if spec.questions == 1 else [f"{name}-{place}" for place in range(spec.questions)]
            return [
                Sample(own, scene.context, question.text, question.answer, facts=question.facts)
                for own, question in zip(names, chosen, strict=True)
            ]
    raise RuntimeError(
        f"no {spec.scene} scene of {n_tokens} tokens in {DRAWS} has {spec.questions} questions of the kinds "
        f"{', '.join(spec.kinds or kinds_of(spec.scene))}"
    )


def _drawn(rng: random.Random, asked: list[Question], hard: bool | None, count: int) -> list[Question]:
    """``count`` different questions, those of the wanted difficulty first."""
    best = _preferred(asked, hard)
    if count == 1:
        return [rng.choice(best)]
    rest = [question for question in asked if question not in best]
    return [*rng.sample(best, min(count, len(best))), *rng.sample(rest, max(0, count - len(best)))]


def _preferred(questions: list[Question], hard: bool | None) -> list[Question]:
    """Those of the wanted difficulty, or all when there is none: a short chat may change nothing."""
    return [question for question in questions if hard is None or question.hard == hard] or questions
