"""The main job from task to exported file. Everything it makes lies in one folder; the same call resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from a2sf_core.config import fingerprint
from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from studies.samples import Sample
from tuner import report
from tuner.data import content_hash
from tuner.engine import Engine
from tuner.evidence import CONFIDENCE
from tuner.export import write_config
from tuner.finalists import Candidate, best_baseline, choose, compare
from tuner.models import load_model, max_tokens
from tuner.prompts import Encoded, Parts, encode, split
from tuner.scoring import Scorer
from tuner.settings import Inputs, Settings
from tuner.space import SPACE, space_hash
from tuner.study import MEMORY, QUALITY, Study
from tuner.suggest import AlphaModel, fit, loss_table
from tuner.tasks import Task
from tuner.tracking import Tracker
from tuner.verdict import verdict


@dataclass(frozen=True)
class Outcome:
    """What a run found, for the report, the export and MLflow; all measured on the report split.

    ``chosen`` is what is exported: ``tuned`` if it holds, else the best baseline if that does, else the full cache.
    """

    chosen: Candidate
    tuned: Candidate | None
    baseline: Candidate | None
    finalists: list[Candidate]
    alpha_model: AlphaModel
    sentence: str


def run(settings: Settings, inputs: Inputs, console: Console) -> Path:
    """Run or resume the whole job and return its folder.

    Raises:
        A2SFError: bad input of any kind, before anything is written.
    """
    task, samples = inputs.task, inputs.samples
    model, tokenizer = load_model(str(inputs.model_folder), settings.device, settings.dtype)
    splits, remark = _splits(task, samples, model, tokenizer, settings)
    folder = settings.folder(task)
    identity = {
        "model": _model_identity(model),
        "task": f"{task.name} {hashlib.sha256(task.model_dump_json().encode()).hexdigest()[:12]}",
        "data": content_hash(samples)[:12],
        "search space": space_hash(),
        "seed": str(settings.seed),
    }
    study = Study(folder, identity, settings.seed)
    tracker = Tracker(folder, f"a2sf {task.name}", folder.name, {"task": task.name, "model": settings.model})
    tracker.share_view(MEMORY, QUALITY, list(SPACE))
    console.print(f"{task.title}: {settings.model}, {len(splits.search)} search, {len(splits.select)} select, "
                  f"{len(splits.report)} report samples{remark}", highlight=False)  # fmt: skip

    with _steps(console) as step:
        search = Engine(model, splits.search, progress=step("Reading search prompts"))
        full = search.evaluate(Policy.full(search.n_layers))
        if not full.finite():
            raise A2SFError(f"{settings.model} gives NaN or infinity with the full cache; try --dtype float32.")
        show = step("Trials")
        try:
            study.run(search, full, settings.trials, lambda done: show(done, settings.trials))
        finally:
            tracker.sync(study.records())
        references = {sample.id: sample.answer for sample in samples}
        scorer = Scorer(task.metric, model, tokenizer, references, task.max_new_tokens)
        select = Engine(model, splits.select, progress=step("Reading select prompts"))
        chosen, finalists = choose(select, study.records(), settings.max_degradation, scorer, settings.seed)
        by_hand = best_baseline(select, settings.max_degradation, scorer, settings.seed)
        unseen = Engine(model, splits.report, progress=step("Reading report prompts"))
        outcome, table = _prove(settings, chosen, finalists, by_hand, unseen, scorer, search, step("Fitting alpha"))

    evidence = report.evidence(settings, task, identity, outcome, splits, unseen, scorer, study.records())
    evidence["mlflow_run_id"] = tracker.parent_run_id
    config = write_config(folder, model, task.name, outcome.chosen, outcome.alpha_model, evidence)
    files = report.write(folder, study.records(), outcome, evidence, table, settings.max_degradation)
    tracker.sync(study.records())
    tracker.finish(outcome.sentence, report.flat_metrics(evidence), {"task": task.name, "model": settings.model},
                   [config, *files], table.pipeline, table.example)  # fmt: skip
    report.show(console, folder, outcome, evidence, tracker, config)
    return folder


def _prove(
    settings: Settings,
    picked: Candidate | None,
    finalists: list[Candidate],
    by_hand: Candidate | None,
    unseen: Engine,
    scorer: Scorer,
    search: Engine,
    show: Callable[[int, int], None],
) -> tuple[Outcome, report.AlphaTable]:
    """Measure what was chosen on the report split, and fit the alpha regressor."""
    full_score = scorer(unseen, Policy.full(unseen.n_layers))

    def on_report(candidate: Candidate | None) -> Candidate | None:
        if candidate is None:
            return None
        return compare(unseen, candidate.label, candidate.policy, scorer, full_score, settings.seed, CONFIDENCE)

    nearest = max(finalists, key=lambda c: c.difference.low, default=None)
    chosen, baseline, closest = on_report(picked), on_report(by_hand), on_report(None if picked else nearest)
    sentence = verdict(chosen, closest, baseline, settings.max_degradation, len(unseen.samples))
    full = Policy.full(unseen.n_layers)
    nothing = compare(unseen, "full cache", full, scorer, full_score, settings.seed, CONFIDENCE)
    # The regressor is fitted around the tuned shape, or, without one, around the nearest thing to it.
    shape = (chosen or closest or baseline or nothing).policy
    train, held_out = loss_table(search, shape), loss_table(unseen, shape)
    alpha_model, pipeline = fit(train, held_out, shape.cache_fraction(1000), settings.seed)
    show(1, 1)
    tuned_holds = chosen is not None and chosen.meets(settings.max_degradation)
    final = chosen if tuned_holds else (baseline if baseline and baseline.meets(settings.max_degradation) else nothing)
    assert final is not None
    outcome = Outcome(final, chosen, baseline, finalists, alpha_model, sentence)
    return outcome, report.AlphaTable(held_out, pipeline)


def _splits(
    task: Task, samples: list[Sample], model: Any, tokenizer: Any, settings: Settings
) -> tuple[Parts[Encoded], str]:
    encoded = encode(samples, tokenizer, task, max_tokens(model, tokenizer))
    counts = None
    if settings.data is None and task.samples is not None:
        counts = (task.samples.search, task.samples.select, task.samples.report)
    parts = split(encoded, str(settings.seed), counts)
    remarks = {
        "cut in the middle to fit the model": encoded.n_truncated,
        "too long and left out": len(encoded.dropped),
        "contexts shared between parts": parts.shared_contexts,
    }
    said = ", ".join(f"{count} {what}" for what, count in remarks.items() if count)
    return parts, f" ({said})" if said else ""


def _model_identity(model: Any) -> str:
    """Shape and weights: a study is never resumed with another checkpoint of the same shape."""
    digest = hashlib.sha256(json.dumps({k: v for k, v in fingerprint(model).items() if k != "name"}).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(repr(tensor.double().sum().item()).encode())
    return f"{type(model).__name__} {digest.hexdigest()[:12]}"


@contextmanager
def _steps(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars with the time left; ``step(name)`` gives a callback for (done, total)."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=bool(os.environ.get("A2SF_QUIET"))) as progress:

        def step(name: str) -> Callable[[int, int], None]:
            row = progress.add_task(name, total=None)
            return lambda done, total: progress.update(row, completed=done, total=total)

        yield step
