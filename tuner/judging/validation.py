"""A task before anything is searched: the first prompt, the three parts, and how well the full cache does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.inputs.check import Inputs
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import max_tokens, model_of
from tuner.inputs.splits import Parts, encode_and_split, power_of
from tuner.inputs.tasks import Task
from tuner.judging.grading import Grader, generate
from tuner.judging.intervals import CONFIDENCE, paired_interval
from tuner.measuring.engine import Engine
from tuner.settings import Settings

SAMPLES = 32
"""Scored, of the search and select parts: the report samples stay unseen."""
NEAR_ZERO = 0.05
SHOWN = 600
"""Characters of the prompt at either end."""


@dataclass(frozen=True)
class Validation:
    """`prompt` as the model sees it, `answer` as it is counted, `written` by the full cache; of one sample.

    `scores`: the full cache's, float64 `[sample]`, 0 to 1. `question`: the end of the prompt that is read after the
    cut, where a task is cut before its question.
    """

    prompt: str
    answer: str
    written: str
    scores: np.ndarray
    question: str = ""

    def interval(self) -> tuple[float, float]:
        """Of the mean score, 95 %: by bootstrap, or exact (Clopper-Pearson) where all samples score the same."""
        if np.ptp(self.scores) > 0:
            found = paired_interval(self.scores, seed=0)
            return found.low, found.high
        n, hits, tail = len(self.scores), float(self.scores.sum()), (1 - CONFIDENCE) / 2
        low = stats.beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
        high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
        return float(low), float(high)

    def warning(self) -> str:
        """One sentence where a search would be in vain or shows little; empty otherwise."""
        return _warning(self.scores)

    def lines(self) -> list[tuple[str, str]]:
        """What a reader is shown: a word and what it says; no word before the warning."""
        low, high = self.interval()
        said = [
            ("Prompt", repr(_middle_cut(self.prompt))),
            *([("After cut", repr(self.question))] if self.question else []),
            ("Answer", repr(self.answer)),
            ("Written", repr(self.written)),
            ("Score", f"{self.scores.mean():.1%} [{low:.1%}, {high:.1%}] full cache, {len(self.scores)} samples"),
        ]
        return [*said, ("", self.warning())] if self.warning() else said


def room_for(scores: np.ndarray, metric: str, goal: float) -> str:
    """What the full cache scores, `[sample]`, and what is odd about that, in a sentence or two.

    Raises:
        A2SFError: if a policy that loses all of it would still be within `goal` points.
    """
    mean, n = float(scores.mean()), len(scores)
    if 100 * mean <= goal:
        raise A2SFError(
            f"The full cache scores {mean:.1%} in {metric} on {n} search samples, so a policy that loses everything "
            f"would stay within {goal:g} points: the prompt may not suit the model, or the metric the answers. "
            "`a2sf-tune validate` shows what the model reads and writes."
        )
    return f"The full cache scores {mean:.1%} in {metric} on the search samples. {_warning(scores)}".strip()


def _warning(scores: np.ndarray) -> str:
    mean, n = float(scores.mean()), len(scores)
    if mean < NEAR_ZERO:
        return f"Only {mean:.1%} right: the prompt may not suit the model, or the metric the answers."
    if np.ptp(scores) == 0:
        return f"All {n} samples score {mean:.1%}: harder samples would tell policies apart sooner."
    return ""


def validate(task: Task, parts: Parts[Encoded], model: Any, tokenizer: Any) -> Validation:
    """Read and score up to `SAMPLES` samples with the full cache.

    Raises:
        A2SFError: if the model gives NaN, or a metric of the user's own fails.
    """
    some: Sequence[Encoded] = (*parts.search, *parts.select)[:SAMPLES]
    first = some[0]
    engine = Engine(model, some, bank=())  # nothing is dropped, so nothing need be ranked
    full = Policy.full(engine.n_layers)
    if not engine.evaluate(full).finite():
        raise A2SFError("The model gives NaN or infinity with the full cache; try another --dtype.")
    scores = Grader.of(task, model, tokenizer)(engine, full)
    written = generate(model, tokenizer, [first], full, task.max_new_tokens, task.stop)[0]
    return Validation(tokenizer.decode(first.whole_prompt), tokenizer.decode(first.answer_ids), written, scores,
                      tokenizer.decode(first.question_ids))  # fmt: skip


def first_look(settings: Settings, inputs: Inputs) -> list[tuple[str, str]]:
    """What `a2sf-tune validate` shows of a task and its samples, as `Validation.lines`.

    Raises:
        A2SFError: if the model cannot be loaded, or as `validate` does.
    """
    model, tokenizer = model_of(settings)
    limit = max_tokens(model, tokenizer)
    parts, remark = encode_and_split(inputs.samples, inputs.task, settings, tokenizer, limit)
    return [
        ("Parts", f"{parts}{remark or ' (none cut, none left out)'}"),
        ("Power", str(power_of(parts, inputs.task, settings.max_degradation))),
        *validate(inputs.task, parts, model, tokenizer).lines(),
    ]


def _middle_cut(text: str) -> str:
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} [...] {text[-SHOWN:]}"
