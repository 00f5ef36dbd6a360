"""The prompts that peers are compared on, and what the full cache writes behind them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from a2sf_core.errors import A2SFError
from studies.samples import bundled_samples
from tuner.inputs.data import load_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.greedy import end_tokens, greedily
from tuner.inputs.models import max_tokens
from tuner.inputs.tasks import Task, load_task
from tuner.measuring.texts import Ends

REAL_TASKS = Path(__file__).parent.parent / "studies" / "real"
SHORTEST = 65
"""Tokens before the cut: kvpress's SnapKV takes no fewer with its window of 64."""


def name_of(asked: Encoded) -> str:
    """A prompt with its question and reference, told apart by all of their tokens."""
    ids = json.dumps([asked.prompt_ids, asked.question_ids, asked.answer_ids])
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def task_of(name_or_path: str) -> Task:
    """A task by its name, those for real models included, or by the path of its YAML file."""
    real = REAL_TASKS / f"{name_or_path}.yaml"
    return load_task(str(real) if real.exists() else name_or_path)


def prompts(
    model: Any, tokenizer: Any, task: Task, data: str | None, n_tune: int, n_measure: int
) -> tuple[list[Encoded], list[Encoded]]:
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
    both = (encode(samples, tokenizer, task, limit) for samples in (tune, fresh))
    learn, measure = ([each for each in some if len(each.prompt_ids) >= SHORTEST] for some in both)
    if not learn or not measure:
        raise A2SFError(f"There is nothing to compare: {len(learn)} prompts to tune on, {len(measure)} to measure.")
    return learn, measure


def ends_of(model: Any, tokenizer: Any, most: int) -> Ends:
    """When a text is over that is written here: after `most` tokens, or one that ends it."""
    return Ends(most, frozenset(end_tokens(model, tokenizer)))


@torch.no_grad()
def own_text(model: Any, tokenizer: Any, asked: Encoded, most: int) -> tuple[int, ...]:
    """What the model writes with its full cache, greedily: at most `most` tokens, with the one that ends it."""
    ids = torch.tensor([asked.whole_prompt], device=model.device)
    with greedily(model, tokenizer, most) as settings:
        written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return tuple(written[0, ids.shape[1] :].tolist())
