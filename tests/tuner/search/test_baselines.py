"""Known methods as points of any space, and what their trials say of themselves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINE_BUDGETS, BASELINES, Baseline, baseline_trials, pyramid
from tuner.search.objectives import MEMORY, QUALITY, values_of
from tuner.search.space import Space
from tuner.search.study import Plan, Study

RULES = ("decay", "window")


def test_a_baseline_is_the_known_method() -> None:
    space = Space("slope", False, 3)
    methods = {b.name: b.policy(0.25, 3) for b in BASELINES}
    assert methods["h2o"] == Policy.h2o(3, 0.25)
    assert methods["tova"] == Policy.tova(3, 0.25)
    assert methods["snapkv"] == Policy.snapkv(3, 0.25)
    assert methods["streaming-llm"] == Policy.streaming_llm(3, 0.25)
    points = {b.name: b.point(0.25, RULES) for b in BASELINES}
    assert {name for name, point in points.items() if point is None} >= {"pyramidkv", "streaming-llm", "random"}
    for name, point in points.items():
        assert point is None or space.policy(space.complete(point)) == methods[name]


def test_a_method_out_of_the_ranges_keeps_its_policy_and_not_the_nearest_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clamped to the ranges, 32 recent tokens would be all of the budget, and the trial another method."""
    odd = [Baseline("h2o 32", Decay(), recent=32), Baseline("many sinks", Decay(8.0), sink=16)]
    monkeypatch.setattr("tuner.search.baselines.BASELINES", (*BASELINES, *odd))
    for per_head, family in ((False, "uniform"), (False, "bump")):
        trials = Space(family, per_head, 3).enqueued()
        for trial in (trial for trial in trials if trial.method in ("h2o 32", "many sinks")):
            baseline = next(b for b in odd if b.name == trial.method)
            assert trial.policy == baseline.policy(float(trial.label.split()[-1]), 3)
            assert trial.params == {}
        assert sum(trial.policy is not None for trial in trials) == 3 * (3 + 2)


def test_what_is_not_searched_is_no_point_of_the_space() -> None:
    snapkv = next(b for b in BASELINES if b.name == "snapkv")
    assert snapkv.point(0.25, ("decay",)) is None
    assert snapkv.point(0.25, ("decay", "window")) is not None


@pytest.mark.parametrize("budget", [0.02, 0.25, 0.5, 0.94])
def test_a_pyramid_falls_evenly_and_keeps_its_mean(budget: float) -> None:
    shares = pyramid(budget, 12)
    assert np.mean(shares) == pytest.approx(budget)
    assert all(high >= low for high, low in pairwise(shares))
    assert max(shares) <= 1
    if budget < 0.5:
        assert shares[-1] == pytest.approx(budget / 20)
        assert np.diff(shares, 2) == pytest.approx(0, abs=1e-12)


def test_every_method_is_there_at_every_budget_and_the_full_cache_once() -> None:
    trials = baseline_trials(3, RULES)
    assert [trial.label for trial in trials if trial.method == "h2o"] == [f"h2o {b:g}" for b in BASELINE_BUDGETS]
    assert len(trials) == 1 + len(BASELINES) * len(BASELINE_BUDGETS)
    assert {trial.kind for trial in trials} == {"baseline"}


def test_kind_and_method_are_kept_in_the_journal(tmp_path: Path) -> None:
    """What a trial is, is told when it is enqueued; nobody reads it out of the label."""
    engine = Engine(tiny("llama"), samples(4), bank=Space("uniform", False, 3).bank)
    study = Study(tmp_path, {}, 0)
    study.run(engine, Space("uniform", False, 3), Plan(len(baseline_trials(3, RULES)) + 2), lambda _done: None)
    records = Study(tmp_path, {}, 0).records()
    told = {(record.label, record.kind, record.method) for record in records}
    assert told == {(t.label, t.kind, t.method) for t in baseline_trials(3, RULES)} | {("search", "search", "")}
    values = [json.loads(line)["values"] for line in (tmp_path / "study.journal").open() if '"values"' in line]
    assert values == [values_of(record.metrics) for record in records]
    assert values[1] == [records[1].metrics[QUALITY], records[1].metrics[MEMORY]]
