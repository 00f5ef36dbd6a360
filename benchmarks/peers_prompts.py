"""The prompts that peers are compared on: what is read before the cut, what after it, and the texts that are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from a2sf_core.errors import A2SFError
from studies.samples import Sample, bundled_samples
from tuner.inputs.data import load_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.greedy import greedily
from tuner.inputs.models import max_tokens
from tuner.inputs.tasks import Task, load_task

REAL_TASKS = Path(__file__).parent.parent / "studies" / "real"
SHORTEST = 65
"""Tokens before the cut: kvpress's SnapKV takes no fewer with its window of 64."""
OTHER_QUESTIONS = ("?", "Zebras")
"""What a prompt shares with its like under these is what is known before any question."""


@dataclass(frozen=True)
class Asked:
    """One prompt of the comparison, as token ids.

    before: what is read and cut. between: what is read over the kept keys before an answer (nothing, or the question).
    reference: the answer that is asked for. context: equal for prompts that are drawn together in a bootstrap.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    reference: tuple[int, ...]
    context: str

    @property
    def name(self) -> str:
        """Told apart by all of its tokens."""
        ids = json.dumps([self.before, self.between, self.reference])
        return hashlib.sha256(ids.encode()).hexdigest()[:16]

    def encoded(self) -> Encoded:
        """As the engine's reader takes it: what is cut is the prompt, all behind it the answer."""
        return Encoded(self.name, self.before, self.between + self.reference, "", False, self.context)


def task_of(name_or_path: str) -> Task:
    """A task by its name, those for real models included, or by the path of its YAML file."""
    real = REAL_TASKS / f"{name_or_path}.yaml"
    return load_task(str(real) if real.exists() else name_or_path)


def prompts(
    model: Any, tokenizer: Any, task: Task, data: str | None, cut: str, n_tune: int, n_measure: int
) -> tuple[list[Asked], list[Asked]]:
    """Those to tune on and those to measure on; no context is in both.

    Of a file the first `n_tune` rows tune and the next `n_measure` are measured. Bundled samples are numbered: what
    `a2sf-tune` itself looks at by default comes first, and none of it is measured.
    """
    if data:
        given = load_samples(data)
        tune, rest = given[:n_tune], given[n_tune:]
    else:
        if task.samples is None:
            raise A2SFError(f"Task {task.name!r} has no samples of its own; give a file with --data.")
        own = task.samples.search + task.samples.select + task.samples.report
        tune = bundled_samples(task.samples, n_tune)
        rest = bundled_samples(task.samples, n_measure, max(own, n_tune))
    known = {sample.context for sample in tune}
    fresh = [sample for sample in rest if sample.context not in known][:n_measure]
    limit = max_tokens(model, tokenizer)
    return _asked(tune, tokenizer, task, limit, cut), _asked(fresh, tokenizer, task, limit, cut)


def _asked(samples: Sequence[Sample], tokenizer: Any, task: Task, limit: int, cut: str) -> list[Asked]:
    found = []
    for sample in samples:
        [each] = encode([sample], tokenizer, task, limit)
        end = len(each.prompt_ids)
        if cut == "context":
            others = encode([replace(sample, question=other) for other in OTHER_QUESTIONS], tokenizer, task, limit)
            end = min(_in_common(each.prompt_ids, other.prompt_ids) for other in others)
            if 2 * end < len(each.prompt_ids):
                raise A2SFError(
                    f"Only {end} of {len(each.prompt_ids)} tokens of {sample.id!r} come before its question; "
                    "--cut context needs a task whose prompt has the context first."
                )
        ids = each.prompt_ids
        found.append(Asked(ids[:end], ids[end:], each.answer_ids, each.context_key))
    return [each for each in found if len(each.before) >= SHORTEST]


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@torch.no_grad()
def own_text(model: Any, tokenizer: Any, asked: Asked, most: int) -> tuple[int, ...]:
    """What the model writes with its full cache, greedily: at most `most` tokens, with the one that ends it."""
    ids = torch.tensor([asked.before + asked.between], device=model.device)
    with greedily(model, tokenizer, most) as settings:
        written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return tuple(written[0, ids.shape[1] :].tolist())
