"""The main job from task to exported file. Everything it makes lies in one folder; the same call resumes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.alpha.model import alpha_example
from tuner.alpha.regressor import Fitted, fit_around
from tuner.choices import name_of
from tuner.inputs.check import Inputs, check
from tuner.inputs.encoding import Encoded
from tuner.inputs.splits import power_of, report_samples
from tuner.job import Job, open_job
from tuner.judging.choice import Choice, choose
from tuner.judging.intervals import samples_for
from tuner.judging.proof import Outcome, prove
from tuner.judging.validation import room_for
from tuner.measuring.engine import Engine
from tuner.measuring.rounding import must_run_attached
from tuner.reporting.evidence import SampleCounts, gather
from tuner.reporting.export import write_config
from tuner.reporting.files import write
from tuner.reporting.result import Result
from tuner.search.learned_file import Lesson, kept_lesson
from tuner.search.learning import LEARNED_FROM
from tuner.search.profiles import kept_profile
from tuner.search.records import TrialRecord
from tuner.search.space import Space
from tuner.search.storage import LEARNED_FILE
from tuner.search.study import Plan
from tuner.settings import Settings
from tuner.watch import Progress, Silent, Watch

SYNC_EVERY = 20
"""Trials between two visits to MLflow, so that a long study can be watched."""


def tune(settings: Settings, inputs: Inputs | None = None, watch: Watch | None = None) -> Result:
    """Run or resume the whole job: find a policy, prove it, export it.

    Args:
        settings: what is wanted.
        inputs: what `tuner.inputs.check.check` made of the settings; None checks them now.
        watch: told how far the run is; None for nobody.

    Raises:
        A2SFError: bad input of any kind, before anything is written.
        EndsElsewhere: where another worker of the same study has the last word.
    """
    with ExitStack() as until_the_end:
        job = open_job(settings, inputs or check(settings), watch or Silent(), until_the_end)
        found = _search(job)
        with job.study.concluding():
            chosen = _choose(job, found)
            proven = _prove(job, found, chosen)
            return _report(job, found, proven)


@dataclass(frozen=True)
class _Found:
    """What the search found, with the profile that it used in the space."""

    engine: Engine
    space: Space
    records: list[TrialRecord]


@dataclass(frozen=True)
class _Chosen:
    """What was chosen on search and select samples, with the latter's engine, and the samples that are to judge it."""

    select: Engine
    choice: Choice
    report: Sequence[Encoded]


@dataclass(frozen=True)
class _Proven:
    """What the report split says. `looks` counts the choices it has judged by now. `attached`: by really running."""

    outcome: Outcome
    alpha: Fitted
    n_samples: int
    looks: int
    attached: bool


def _search(job: Job) -> _Found:
    """Read the search prompts, profile the layers and heads where the space asks for it, run the trials."""
    settings = job.settings
    path = job.folder / LEARNED_FILE
    lesson = Lesson.load(path, job.dimensions.n_layers, job.n_kv_heads) if path.exists() else None
    learn_from = LEARNED_FROM if job.dimensions.learns and lesson is None else ()
    engine = job.engine("search", job.parts.search, lesson.rules if lesson else (), learn_from)
    job.watch.step("Judging the full cache")
    if not engine.evaluate(Policy.full(engine.n_layers)).finite():
        raise A2SFError(f"{settings.model} gives NaN or infinity with the full cache; try --dtype float32.")
    scores = job.grader(engine, Policy.full(engine.n_layers))
    job.watch.say(room_for(scores, job.task.metric, settings.max_degradation))
    profile = None
    with job.study.preparing():
        if job.dimensions.needs_profile:
            known = job.warm.profile
            profile = kept_profile(job.folder, known, engine, job.dimensions, job.limit, settings.seed, job.watch)
        space = Space.of(job.dimensions, profile)
        if learn_from:
            lesson = kept_lesson(job.folder, engine, space, settings.seed, job.watch)
    space = Space.of(job.dimensions, profile, lesson.rules if lesson else ())
    plan = Plan(settings.trials, settings.sampler, patience=settings.patience, seeds=job.warm.seeds)
    return _Found(engine, space, _run_trials(job, engine, space, plan, job.watch.step("Trials")))


def _run_trials(job: Job, engine: Engine, space: Space, plan: Plan, progress: Progress) -> list[TrialRecord]:
    """Run the trials and bring MLflow up to date, also when interrupted."""

    def on_trial(done: int) -> None:
        progress(done, plan.trials)
        if done % SYNC_EVERY == 0:
            job.sync(job.study.records())

    progress(min(len(job.study.records()), plan.trials), plan.trials)  # a resumed study may have nothing left to run
    try:
        job.study.run(engine, space, plan, on_trial)
    finally:
        records = job.study.records()
        job.sync(records)
    return records


def _choose(job: Job, found: _Found) -> _Chosen:
    """Choose on search and select samples together, and how many others are to judge the choice."""
    settings = job.settings
    select = job.engine("select", job.parts.select, found.space.learned, beside=[found.engine])
    seen, n_judges, progress = job.contest(found.engine, select), job.power.n_contexts, job.watch.step("Choosing")
    choice = choose(seen, n_judges, found.space, found.records, progress)
    report: Sequence[Encoded] = job.parts.report
    if settings.precision and choice.picked:
        paired = seen.look(choice.picked.around.proposal.policy).paired.with_unseen(seen.resolution)
        n = samples_for(paired, settings.precision)
        report = report_samples(n, report, job.task, settings, job.tokenizer, job.limit)
    return _Chosen(select, choice, report)


def _prove(job: Job, found: _Found, chosen: _Chosen) -> _Proven:
    """Measure the choice on the report split, then fit the alpha regressor around what holds."""
    choice = chosen.choice
    rungs = [rung.policy for ladder in (choice.picked, choice.known) if ladder for rung in ladder.rungs]
    attached = must_run_attached(job.model, job.watch.say)
    others = [found.engine, chosen.select]
    unseen = job.engine("report", chosen.report, found.space.learned, attached=attached, beside=others)
    looks = job.study.count_report_look(rungs)
    power = power_of(replace(job.parts, report=tuple(chosen.report)), job.task, job.power.goal)
    outcome = prove(job.contest(unseen), job.contest(found.engine), choice, power, job.watch)
    progress = job.watch.step("Fitting alpha")
    alpha = fit_around(outcome.around, found.engine, chosen.select, unseen, job.settings.seed, progress)
    return _Proven(outcome, alpha, len(chosen.report), looks, attached)


def _report(job: Job, found: _Found, proven: _Proven) -> Result:
    """Write the policy, its evidence and the pictures, and put them into MLflow."""
    settings, parts, outcome, alpha = job.settings, job.parts, proven.outcome, proven.alpha
    job.watch.step("Writing the report")
    counts = SampleCounts(len(parts.search), len(parts.select), proven.n_samples, parts.shared_contexts, proven.looks)
    identity = job.identity | {
        "model_name": name_of(settings.model),
        "data_source": name_of(settings.data or "bundled"),
    }
    if proven.attached:
        identity["report samples"] = "measured by running the attached model"
    evidence = gather(outcome, found.records, counts, identity, job.tracker.parent_run_id)
    config = write_config(job.folder, job.model, job.task, outcome.exported, alpha.model, evidence)
    files = [config, *write(job.folder, found.records, outcome, alpha, evidence, found.space)]
    names = {"task": job.task.name, "model": settings.model}
    job.tracker.sync(found.records)
    job.tracker.finish(outcome.verdict.sentence, evidence.metrics(), names, files, alpha.pipeline, alpha_example())
    command, link = job.tracker.serve_command(), job.tracker.link()
    return Result(job.folder, config, outcome, evidence, alpha.model, command, link)
