"""The main job from task to exported file. Everything it makes lies in one folder; the same call resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
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
from tuner.finalists import CHOOSING_CONFIDENCE, Contest, best_baseline, choose
from tuner.models import load_model, max_tokens
from tuner.prompts import Encoded, Parts, encode, split
from tuner.proof import prove
from tuner.scoring import Scorer
from tuner.settings import Inputs, Settings
from tuner.space import SPACE, space_hash
from tuner.study import MEMORY, QUALITY, Study
from tuner.tasks import Task
from tuner.tracking import Tracker


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
            records = study.records()
            tracker.sync(records)
        references = {sample.id: sample.answer for sample in samples}
        scorer = Scorer(task.metric, model, tokenizer, references, task.max_new_tokens)
        select = Engine(model, splits.select, progress=step("Reading select prompts"))
        goal, seed = settings.max_degradation, settings.seed
        choosing = Contest(select, scorer, goal, seed, CHOOSING_CONFIDENCE)
        picked, finalists = choose(choosing, records)
        by_hand = best_baseline(choosing)
        unseen = Engine(model, splits.report, progress=step("Reading report prompts"))
        looks = study.count_report_look([candidate.policy for candidate in (picked, by_hand) if candidate])
        proving = Contest(unseen, scorer, goal, seed, CONFIDENCE)
        outcome = prove(proving, search, select, picked, finalists, by_hand, step("Fitting alpha"))

    evidence = report.evidence(settings, task, identity, outcome, splits, unseen, scorer, len(records), looks)
    evidence["mlflow_run_id"] = tracker.parent_run_id
    config = write_config(folder, model, task.name, outcome.exported, outcome.alpha_model, evidence)
    files = report.write(folder, records, outcome, evidence, goal)
    tracker.finish(outcome.sentence, report.flat_metrics(evidence), {"task": task.name, "model": settings.model},
                   [config, *files], outcome.pipeline, report.alpha_example())  # fmt: skip
    report.show(console, folder, outcome, evidence, tracker, config)
    return folder


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
        # A sample of every tensor's bytes: hashing 14 GB whole would take longer than reading them.
        flat = tensor.detach().flatten()
        some = flat[:: max(1, flat.numel() // 4096)].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()[:12]}"


@contextmanager
def _steps(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars with the time left; ``step(name)`` gives a callback for (done, total)."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def step(name: str) -> Callable[[int, int], None]:
            row = progress.add_task(name, total=None)
            return lambda done, total: progress.update(row, completed=done, total=total)

        yield step
