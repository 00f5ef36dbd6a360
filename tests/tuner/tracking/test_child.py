"""What MLflow is told of one trial."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tuner.search.records import TrialRecord
from tuner.tracking.child import TAG_LIMIT, child_run, finite, group_tags

TRIAL = TrialRecord(
    7, "complete", "search", {"budget": 0.2}, {"cache_fraction": 0.2, "kl": math.inf}, "{}", started_ms=100, ended_ms=90
)
BASELINE = replace(TRIAL, label="h2o 0.25", kind="baseline", method="h2o")


@pytest.mark.parametrize(
    ("trial", "group"),
    [
        (replace(TRIAL, pareto=True), "1 pareto front"),
        (replace(BASELINE, pareto=True), "1 pareto front"),
        (BASELINE, "2 baseline"),
        (TRIAL, "3 search"),
        (replace(TRIAL, kind="seed", label="seed profile, decay 0.1"), "3 search"),
        (replace(TRIAL, state="pruned"), "4 pruned"),
        (replace(BASELINE, state="pruned"), "2 baseline"),
        (replace(BASELINE, state="failed"), "5 failed"),
    ],
)
def test_what_matters_most_sorts_first(trial: TrialRecord, group: str) -> None:
    assert group_tags(trial) == {"a2sf.pareto": str(trial.pareto).lower(), "a2sf.group": group}


def test_a_run_has_a_name_a_span_and_its_parent() -> None:
    run = child_run(TRIAL, "parent", 50)
    assert (run.name, run.status) == ("trial-007", "FINISHED")
    assert (run.started_ms, run.ended_ms) == (100, 100), "a clock that went back makes no negative span"
    assert run.tags["mlflow.parentRunId"] == "parent"
    assert run.params == {"budget": "0.2"}
    assert run.metrics == {"cache_fraction": 0.2}
    assert child_run(BASELINE, "parent", 50).name == "baseline h2o 0.25"
    assert child_run(replace(TRIAL, started_ms=0), "parent", 50).started_ms == 50


def test_a_policy_too_long_for_a_tag_becomes_a_file() -> None:
    long = "[" + " " * TAG_LIMIT + "]"
    run = child_run(replace(TRIAL, policy_json=long), "parent", 0)
    assert run.policy_file == long
    assert "a2sf.policy" not in run.tags
    assert child_run(TRIAL, "parent", 0).policy_file == ""


def test_a_failure_says_why() -> None:
    run = child_run(replace(TRIAL, state="failed", error="the model gave NaN"), "parent", 0)
    assert (run.status, run.tags["mlflow.note.content"]) == ("FAILED", "the model gave NaN")


def test_only_finite_figures_are_kept() -> None:
    assert finite({"a": 1, "b": math.inf, "c": math.nan, "d": -2.5}) == {"a": 1.0, "d": -2.5}
