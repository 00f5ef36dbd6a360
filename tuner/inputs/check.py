"""What the user named, read and found fit, before anything heavy is imported or anything is written."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean
from studies.samples import Sample, bundled_samples
from tuner.choices import (
    BY_PROMPT,
    FAMILIES,
    LEARNED,
    RAY_LOCAL,
    RULES,
    SAMPLERS,
    check_choice,
    check_installed,
    parse_bytes,
    tracking_address,
)
from tuner.inputs.adapter import check_adapter
from tuner.inputs.data import load_samples
from tuner.inputs.device_map import read_device_map
from tuner.inputs.model_folder import local_folder
from tuner.inputs.own_metric import find_metric, text_score
from tuner.inputs.tasks import Task, load_task
from tuner.settings import Settings

MOST_TRIALS = 1_000_000
LONGEST_NAME = 200
MOST_ACTORS = 1000
FINEST = 0.001
"""Percentage points; half of that would take some hundred million samples."""


@dataclass(frozen=True)
class Inputs:
    """What the settings name, read: the task and its samples."""

    task: Task
    samples: list[Sample]


def check(settings: Settings) -> Inputs:
    """Read task and data. Of the model only what is on this machine is looked at; loading it may download it.

    Raises:
        A2SFError: one sentence for whatever is wrong.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise A2SFError(
            f"WORLD_SIZE is {processes}: torchrun started several processes, and a search runs in one; leave torchrun "
            "out, and spread a large model with --device-map."
        )
    if not 1 <= settings.trials <= MOST_TRIALS:
        raise A2SFError(
            f"--trials is {settings.trials}; expected 1 or more, at most {MOST_TRIALS}; 100 is a good start."
        )
    if not 0 <= settings.max_degradation < math.inf:
        raise A2SFError(f"--max-degradation is {settings.max_degradation:g}; expected 0 or more percentage points.")
    if not 0 <= settings.seed < 2**32:
        raise A2SFError(f"--seed is {settings.seed}; expected 0 to {2**32 - 1}.")
    if settings.patience is not None and settings.patience < 1:
        raise A2SFError(f"--patience is {settings.patience}; expected 1 or more trials, 30 is a good start.")
    if settings.precision is not None and not FINEST <= settings.precision < math.inf:
        raise A2SFError(
            f"--precision is {settings.precision:g}; expected percentage points above 0, such as 0.3, and at least "
            f"{FINEST:g}."
        )
    check_choice("--family", settings.family, FAMILIES)
    check_choice("--sampler", settings.sampler, SAMPLERS)
    if not settings.rules or len(set(settings.rules)) < len(settings.rules):
        raise A2SFError(f"--rule is {', '.join(settings.rules) or 'nothing'}; expected one rule or several, each once.")
    if BY_PROMPT in settings.rules:
        raise A2SFError(f"--rule {BY_PROMPT} is not asked for by itself; {LEARNED} brings it where it may pay.")
    for rule in settings.rules:
        check_choice("--rule", rule, RULES)
    if settings.rules == (LEARNED,):
        raise A2SFError(f"--rule {LEARNED} needs another rule beside it, which serves where learning does not win.")
    check_storage(settings)
    check_ray(settings)
    if settings.memory is not None:
        parse_bytes(settings.memory)
    tracking_address(settings.mlflow)
    if settings.device_map:
        read_device_map(settings.device_map, settings.device)
    if settings.adapter:
        check_adapter(settings.adapter)
    for folder in settings.warm_start:
        if not folder.is_dir():
            raise A2SFError(f"--warm-start {folder} is not a folder; give the folder of an earlier run.")
    task = load_task(settings.task).with_cut(settings.cut)
    metric = find_metric(task.metric)
    if settings.data is not None:
        lists = [name for name, asked in (("facts", metric.of_facts), ("choices", metric.of_choices)) if asked]
        samples = load_samples(settings.data, settings.columns, settings.limit, settings.data_split, lists)
    elif task.samples is not None:
        samples = bundled_samples(task.samples, task.samples.total)
    else:
        raise A2SFError(f"The task {task.name!r} has no samples of its own; give some with --data FILE.jsonl.")
    for sample in samples if metric.of_choices else ():
        if len(set(sample.choices)) < 2 or sample.answer not in sample.choices:
            raise A2SFError(
                f"Sample {sample.id!r} has {len(sample.choices)} choices for the metric {metric.name}; give it a "
                "column 'choices', a list of two answers or more, the right one among them, or take another metric."
            )
    if metric.needs_generation:
        # A metric that cannot do even this would fail after the search, when texts are first judged.
        for sample in samples if metric.of_facts else samples[:1]:
            text_score(metric, sample.answer, sample)
    local_folder(settings.model)
    return Inputs(task, samples)


def check_ray(settings: Settings) -> None:
    """Raise A2SFError if --ray is asked for in a way that cannot be, or without the package."""
    if settings.ray is None:
        if settings.actors is not None:
            raise A2SFError("--actors is how many share the samples; say where with --ray local or an address.")
        return
    if settings.actors is not None and not 1 <= settings.actors <= MOST_ACTORS:
        raise A2SFError(f"--actors is {settings.actors}; expected 1 to {MOST_ACTORS}.")
    if settings.ray != RAY_LOCAL and not re.fullmatch(r"[\w.\-\[\]:]*[\w\]]:\d{1,5}|auto", settings.ray):
        hint = did_you_mean(settings.ray, (RAY_LOCAL, "auto"), f"expected {RAY_LOCAL}, auto, or HOST:PORT.")
        raise A2SFError(f"--ray is {settings.ray!r}; {hint}")
    if ":" in settings.device:
        raise A2SFError(f"--device {settings.device} is one GPU, and with --ray every actor has its own; leave it out.")
    check_installed("--ray", ("ray",), "ray")


def check_storage(settings: Settings) -> None:
    """Raise A2SFError unless the database of --storage answers, if there is to be one."""
    if settings.storage is None:
        if settings.study is not None:
            raise A2SFError("--study is the name of a study in a database; give that with --storage.")
        return
    if settings.study is not None and not 1 <= len(settings.study.strip()) <= LONGEST_NAME:
        raise A2SFError(f"--study has {len(settings.study.strip())} characters; expected 1 to {LONGEST_NAME}.")
    from tuner.database import check_answers  # brings SQLAlchemy

    check_answers(settings.storage, "--storage")
