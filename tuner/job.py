"""What a run reads and opens before it measures anything: model, samples, folder, study, its page in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from a2sf_core.placement import layer_devices
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.shape import n_kv_heads
from a2sf_core.switch import attach
from tuner.choices import name_of
from tuner.inputs.adapter import adapter_identity
from tuner.inputs.check import Inputs
from tuner.inputs.encoding import Encoded
from tuner.inputs.made_with import inputs_identity
from tuner.inputs.models import max_tokens, model_of, slow_type
from tuner.inputs.power import Power
from tuner.inputs.splits import Parts, encode_and_split, power_of
from tuner.inputs.tasks import Task
from tuner.judging.contest import Contest
from tuner.judging.grading import Grader
from tuner.measuring.actors import Actors
from tuner.measuring.engine import Engine
from tuner.measuring.memory import allowed_memory
from tuner.search.dimensions import Dimensions
from tuner.search.fleet import Fleet
from tuner.search.lock import only_run_in
from tuner.search.objectives import MEMORY, QUALITY, SIGNAL
from tuner.search.records import TrialRecord
from tuner.search.study import Study
from tuner.search.warm_start import WarmStart, read_warm_start
from tuner.settings import Settings
from tuner.tracking.tracker import Tracker
from tuner.watch import Watch

PARTS_HELD = 3
"""Parts of the data that are held at once, and share the memory."""


@dataclass(frozen=True)
class Job:
    """What is read and opened before anything is measured.

    limit: how many tokens the model takes. memory: bytes for what is held of all parts.
    """

    settings: Settings
    task: Task
    model: Any
    tokenizer: Any
    limit: int
    parts: Parts[Encoded]
    folder: Path
    dimensions: Dimensions
    identity: dict[str, str]
    warm: WarmStart
    study: Study
    memory: int
    grader: Grader
    watch: Watch
    actors: Actors | None

    @property
    def n_kv_heads(self) -> int:
        """KV heads of a layer of the model."""
        return n_kv_heads(self.model.config.get_text_config())

    @property
    def power(self) -> Power:
        """What the report samples at hand can prove."""
        return power_of(self.parts, self.task, self.settings.max_degradation)

    @cached_property
    def tracker(self) -> Tracker:
        """The study's page in MLflow, made when it is first asked for."""
        names, run = {"task": self.task.name, "model": self.settings.model}, self.folder
        tracker = Tracker(run, f"a2sf {self.task.name}", run.name, names, self.settings.mlflow, self.watch.say)
        tracker.share_view(MEMORY, QUALITY, list(self.dimensions.ranges))
        return tracker

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Bring MLflow up to date; of several workers the one that concludes does it, at the end."""
        if self.settings.storage is None:
            self.tracker.sync(records)

    def contest(self, *engines: Engine) -> Contest:
        """What contenders are held to on the samples of `engines`."""
        return Contest(engines, self.grader, self.settings.max_degradation, self.settings.seed)

    def engine(
        self, name: str, part: Sequence[Encoded], own: Sequence[ScoreRule], learn_from: Sequence[float] = (),
        attached: bool = False, beside: Sequence[Engine] = (),
    ) -> Engine:  # fmt: skip
        """An engine that has read `part`, and knows the rules `own`, one for each layer, or can learn some.

        `attached`: it measures by really running the attached model. `beside`: those that were made before; what they
        left of the memory is shared by it and those to come, so that the last one has all that nobody needed.
        """
        progress = self.watch.step(f"Reading {name} prompts")
        left = self.memory - sum(engine.held for engine in beside)
        return Engine(
            self.model, part, progress=progress, seed=self.settings.seed,
            memory=left // (PARTS_HELD - len(beside)),
            bank=self.dimensions.bank, ends=self.grader.ends, own=own, learn_from=learn_from, attached=attached,
            hold=self.actors.hold if self.actors else None,
        )  # fmt: skip


def open_job(settings: Settings, inputs: Inputs, watch: Watch, until_the_end: ExitStack) -> Job:
    """Load the model, encode and part the samples, hold the folder, open the study and its page in MLflow.

    `until_the_end` lets go of folder and study. Raises A2SFError for bad input of any kind, before anything is written.
    """
    task, samples = inputs.task, inputs.samples
    watch.step(f"Loading {name_of(settings.model)}")
    model, tokenizer = model_of(settings)
    n_layers = model.config.get_text_config().num_hidden_layers
    with attach(Policy.full(n_layers), model):
        pass  # tries what cannot be served, before anything is written
    if slow := slow_type(model):
        watch.say(slow)
    limit = max_tokens(model, tokenizer)
    parts, remark = encode_and_split(samples, task, settings, tokenizer, limit)
    folder = settings.folder(task.name)
    lengths = tuple(len(sample.prompt_ids) for sample in parts.search)
    dimensions = Dimensions(settings.family, settings.per_head, n_layers, rules=settings.rules, lengths=lengths)
    identity = inputs_identity(model, tokenizer, task, samples)
    if settings.adapter:
        identity["adapter"] = adapter_identity(settings.adapter)
    identity |= {"search space": dimensions.digest(), "search signal": SIGNAL, "seed": str(settings.seed)}
    warm = read_warm_start(settings.warm_start, identity)
    memory = allowed_memory(settings.memory, layer_devices(model))
    actors = None
    if settings.ray:
        watch.step("Starting Ray actors")
        actors = Actors(settings, model, PARTS_HELD, watch.say)
        until_the_end.callback(actors.close)
    until_the_end.enter_context(only_run_in(folder))
    fleet = None
    if settings.storage:
        fleet = Fleet(settings.storage, settings.study or settings.name(task.name), folder, identity, watch.say)
        until_the_end.callback(fleet.close)
    study = Study(folder, identity, settings.seed, fleet)
    watch.say(f"{task.title}: {settings.model}, {parts}{remark}")
    grader = Grader.of(task, model, tokenizer)
    job = Job(
        settings, task, model, tokenizer, limit, parts, folder, dimensions, identity, warm, study, memory, grader,
        watch, actors,
    )  # fmt: skip
    job.sync(study.records())
    watch.say(str(job.power))
    if warm.remark:
        watch.say(warm.remark)
    return job
