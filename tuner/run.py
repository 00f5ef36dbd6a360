"""The main job from task to exported file. Everything it makes lies in one folder; the same call resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.alpha.model import alpha_example
from tuner.choices import parse_bytes
from tuner.inputs.check import Inputs
from tuner.inputs.data import content_hash
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import load_model, max_tokens, model_identity
from tuner.inputs.splits import encode_and_split, report_samples
from tuner.judging.choice import choose
from tuner.judging.contest import Contest
from tuner.judging.grading import Scorer
from tuner.judging.intervals import samples_for
from tuner.judging.proof import prove
from tuner.measuring.engine import Engine, Progress
from tuner.measuring.memory import default_memory
from tuner.reporting import evidence as report
from tuner.reporting.export import write_config
from tuner.reporting.files import write
from tuner.reporting.screen import show, steps
from tuner.search.objectives import MEMORY, QUALITY
from tuner.search.profile import PROFILE_FILE, Profile
from tuner.search.profiling import PROFILE_BLOCKS, measure_profile
from tuner.search.records import TrialRecord
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start, what_transferred
from tuner.settings import Settings
from tuner.tracking.tracker import Tracker

SYNC_EVERY = 20
"""Trials between two visits to MLflow, so that a long study can be watched."""


def run(settings: Settings, inputs: Inputs, console: Console) -> Path:
    """Run or resume the whole job and return its folder.

    Raises:
        A2SFError: bad input of any kind, before anything is written.
    """
    task, samples = inputs.task, inputs.samples
    model, tokenizer = load_model(settings.model, settings.device, settings.dtype)
    limit = max_tokens(model, tokenizer)
    splits, remark = encode_and_split(samples, task, settings, tokenizer, limit)
    folder = settings.folder(task.name)
    space = Space(settings.family, settings.per_head, model.config.get_text_config().num_hidden_layers)
    identity = {
        "model": model_identity(model),
        "task": f"{task.name} {hashlib.sha256(task.model_dump_json().encode()).hexdigest()[:12]}",
        "data": content_hash(samples)[:12],
        "search space": space.digest(),
        "seed": str(settings.seed),
    }
    warm = read_warm_start(settings.warm_start, identity)
    # Three parts of the data are held at once.
    memory = (parse_bytes(settings.memory) if settings.memory else default_memory(model.device)) // 3
    study = Study(folder, identity, settings.seed)
    tracker = Tracker(folder, f"a2sf {task.name}", folder.name, {"task": task.name, "model": settings.model})
    tracker.share_view(MEMORY, QUALITY, list(space.ranges))
    console.print(f"{task.title}: {settings.model}, {len(splits.search)} search, {len(splits.select)} select, "
                  f"{len(splits.report)} report samples{remark}", highlight=False)  # fmt: skip

    with steps(console) as step:

        def read(name: str, part: Sequence[Encoded]) -> Engine:
            return Engine(model, part, progress=step(f"Reading {name} prompts"), seed=settings.seed, memory=memory)

        search = read("search", splits.search)
        if not search.evaluate(Policy.full(search.n_layers)).finite():
            raise A2SFError(f"{settings.model} gives NaN or infinity with the full cache; try --dtype float32.")
        if space.needs_profile:
            space = replace(space, profile=_profile(folder, search, warm.profile, step("Profiling layers, heads")))
        plan = Plan(settings.trials, settings.sampler, patience=settings.patience, seeds=warm.seeds)
        records = _search(study, search, space, plan, tracker, step("Trials"))

        references = {sample.id: sample.answer for sample in samples}
        scorer = Scorer(task.metric, model, tokenizer, references, task.max_new_tokens)
        select = read("select", splits.select)
        choosing = Contest(select, scorer, space, settings.max_degradation, settings.seed)
        choice = choose(choosing, records)
        report_split: Sequence[Encoded] = splits.report
        if settings.precision and choice.picked:
            n = samples_for(choosing.with_unseen(choice.picked[-1]), settings.precision)
            report_split = report_samples(n, splits.report, task, settings, tokenizer, limit, references)
        unseen = read("report", report_split)
        looks = study.count_report_look([candidate.policy for candidate in (*choice.picked, *choice.by_hand)])
        proving = replace(choosing, engine=unseen)
        outcome = prove(proving, search, select, choice, step("Fitting alpha"))

    evidence = report.evidence(outcome, choice, proving)
    evidence |= {
        "samples": {
            "search": len(splits.search),
            "select": len(splits.select),
            "report": len(report_split),
            "contexts_shared_between_splits": splits.shared_contexts,
            "times_report_was_looked_at": looks,
        },
        "trials": {state: sum(r.state == state for r in records) for state in ("complete", "pruned", "failed")},
        "warm_start": what_transferred(records),
        "study": identity | {"model_name": settings.model, "data_source": settings.data or "bundled"},
        "mlflow_run_id": tracker.parent_run_id,
    }
    config = write_config(folder, model, task.name, outcome.exported, outcome.alpha_model, evidence)
    files = write(folder, records, outcome, evidence, space)
    tracker.finish(outcome.sentence, report.flat_metrics(evidence), {"task": task.name, "model": settings.model},
                   [config, *files], outcome.pipeline, alpha_example())  # fmt: skip
    show(console, folder, outcome, evidence, tracker, config)
    return folder


def _profile(folder: Path, search: Engine, known: Profile | None, progress: Progress) -> Profile:
    """The profile of this folder, of an earlier study of the same model and data, or a new one."""
    path = folder / PROFILE_FILE
    if path.is_file():
        return Profile.load(path)
    profile = known or measure_profile(search, PROFILE_BLOCKS, progress)
    profile.save(path)
    return profile


def _search(
    study: Study, search: Engine, space: Space, plan: Plan, tracker: Tracker, show: Progress
) -> list[TrialRecord]:
    """Run the trials and bring MLflow up to date, also when interrupted."""

    def on_trial(done: int) -> None:
        show(done, plan.trials)
        if done % SYNC_EVERY == 0:
            tracker.sync(study.records())

    try:
        study.run(search, space, plan, on_trial)
    finally:
        records = study.records()
        tracker.sync(records)
    return records
