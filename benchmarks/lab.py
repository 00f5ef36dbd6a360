"""What the search benchmarks share: the bundled tasks at a chosen size, studies in a throw-away folder, their cost."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console

from studies.samples import bundled_samples
from tuner.choices import REFERENCE
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model
from tuner.inputs.tasks import load_task
from tuner.judging.choice import Choice, choose
from tuner.judging.contest import Contest
from tuner.judging.grading import Grader
from tuner.measuring.engine import Engine
from tuner.search.dimensions import Dimensions
from tuner.search.hypervolume import hypervolume
from tuner.search.objectives import Point
from tuner.search.profiling import PROFILE_BLOCKS, measure_profile
from tuner.search.records import TrialRecord
from tuner.search.samplers import make_sampler
from tuner.search.space import Space
from tuner.search.study import Plan, Study, ask

TASKS = ("summarisation", "chat", "knowledge")
BANK = Dimensions("uniform", False, 1).bank
"""What the spaces of all families and the baselines ask for."""
console = Console(width=120)


@dataclass
class Lab:
    """A model and one bundled task; samples are drawn by their number, so none is ever in two parts."""

    task: str
    model: Any
    tokenizer: Any
    tokens: tuple[int, int]
    seed: str = "benchmark-1"

    @classmethod
    def of(cls, task: str, tokens: tuple[int, int]) -> Lab:
        """On the bundled model."""
        return cls(task, *load_model(REFERENCE, "cpu"), tokens)

    def samples(self, first: int, count: int) -> list[Encoded]:
        """Samples ``first`` to ``first + count - 1``."""
        task = load_task(self.task)
        assert task.samples is not None
        spec = task.samples.model_copy(update={"tokens": self.tokens, "seed": self.seed})
        return list(encode(bundled_samples(spec, count, first), self.tokenizer, task, 2048))

    def engine(self, first: int, count: int) -> Engine:
        """An engine on these samples."""
        return Engine(self.model, self.samples(first, count), bank=BANK)

    def contest(self, goal: float, *engines: Engine) -> Contest:
        """Token accuracy on the samples of ``engines``."""
        grader = Grader("token_accuracy", self.model, self.tokenizer, 1)
        return Contest(engines, grader, goal, seed=0)


def profiled(space: Space, engine: Engine, n_blocks: int = PROFILE_BLOCKS) -> tuple[Space, int]:
    """``space`` with the profile it needs, and the evaluations of one sample that it took."""
    if not space.needs_profile:
        return space, 0
    profile = measure_profile(engine, n_blocks)
    return replace(space, profile=profile), profile.evaluations * profile.n_samples


def run_study(engine: Engine, space: Space, plan: Plan, seed: int) -> list[TrialRecord]:
    """All trials of a study as the product runs it."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), {}, seed)
        study.run(engine, space, plan, lambda _done: None)
        return study.records()


def tune(
    lab: Lab, search: Engine, select: Engine, n_judges: int, space: Space, goal: float, seed: int, trials: int
) -> Choice:
    """A whole study up to its choice, for ``n_judges`` report samples."""
    records = run_study(search, space, Plan(trials), seed)
    return choose(lab.contest(goal, search, select), n_judges, space, records)


def cold_points(engine: Engine, space: Space, sampler: str, seed: int, trials: int) -> list[Point]:
    """(cache fraction, KL) of trials without baselines, seeds or racing, in their order."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(sampler, seed, 0))
    points = []
    for _ in range(trials):
        trial = study.ask()
        losses = engine.evaluate(space.policy(ask(trial, space)))
        points.append((float(losses.cache_fraction.mean()), float(losses.kl.mean())))
        study.tell(trial, points[-1][::-1])
    return points


def growth(points: list[Point]) -> list[float]:
    """Hypervolume after each point."""
    return [hypervolume(points[: place + 1]) for place in range(len(points))]


def mean_and_error(values: list[float]) -> str:
    """``mean ± standard error``."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def in_brackets(found: Sequence[float] | None, sign: str = "", digits: int = 3) -> str:
    """A mean with its interval, as text; empty for None. With "+" as `sign` figures above 0 have one."""
    if found is None:
        return ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in found)
    return f"{mean} [{low}, {high}]"


def report(name: str, found: Any) -> None:
    """One line of JSON, for those who want to draw it."""
    print(json.dumps({"benchmark": name, "found": found}))
