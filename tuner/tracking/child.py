"""What MLflow shows of one trial: a run's name, status, times, params, metrics and tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.search.records import TrialRecord

TAG_LIMIT = 8000  # MLflow cuts longer tag values, and half a JSON document is worse than none

# The user interface loads 100 runs at first, in this order; so what matters most must sort first.
_GROUPS = {
    "front": "1 pareto front",
    "baseline": "2 baseline",
    "search": "3 search",
    "pruned": "4 pruned",
    "failed": "5 failed",
}


@dataclass(frozen=True)
class ChildRun:
    """One trial as a run. Both ways of writing it, in bulk and through the client, read this and nothing else."""

    name: str
    status: str
    started_ms: int
    ended_ms: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    policy_file: str  # the policy where it is too long for a tag, otherwise empty


def child_run(trial: TrialRecord, parent_id: str, parent_started_ms: int) -> ChildRun:
    """The run of a finished trial; a trial without times gets its parent's."""
    started = trial.started_ms or parent_started_ms
    name = f"baseline {trial.label}" if trial.is_baseline else f"trial-{trial.number:03d}"
    tags = {**group_tags(trial), "mlflow.parentRunId": parent_id, "mlflow.runName": name}
    tags |= {"a2sf.trial": str(trial.number), "a2sf.label": trial.label}
    short = len(trial.policy_json) <= TAG_LIMIT
    if short:
        tags["a2sf.policy"] = trial.policy_json
    if trial.error:
        tags["mlflow.note.content"] = trial.error[:TAG_LIMIT]
    return ChildRun(
        name=name,
        status="FAILED" if trial.state == "failed" else "FINISHED",
        started_ms=started,
        ended_ms=max(trial.ended_ms, started),
        params={name: str(value) for name, value in trial.params.items()},
        metrics=finite(trial.metrics),
        tags=tags,
        policy_file="" if short else trial.policy_json,
    )


def group_tags(trial: TrialRecord) -> dict[str, str]:
    """The tags that may change while a study goes on."""
    if trial.state == "failed":
        group = trial.state
    elif trial.pareto:
        group = "front"
    elif trial.is_baseline:
        group = "baseline"
    else:
        group = "pruned" if trial.state == "pruned" else "search"
    return {"a2sf.pareto": str(trial.pareto).lower(), "a2sf.group": _GROUPS[group]}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Finite values only: MLflow stores infinity as 1.8e308, and one such point flattens every chart."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
