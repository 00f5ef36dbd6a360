"""Known methods as points of any space, and what their trials say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINE_BUDGETS, BASELINES, baseline_trials
from tuner.search.objectives import MEMORY, QUALITY, values_of
from tuner.search.space import Space
from tuner.search.study import Plan, Study


def test_a_baseline_is_the_known_method() -> None:
    space = Space("slope", False, 3)
    methods = {b.name: space.policy(space.complete(b.params(0.25))) for b in BASELINES}
    assert methods["h2o"] == Policy.h2o(3, 0.25)
    assert methods["tova"] == Policy.tova(3, 0.25)
    assert methods["streaming-llm"].layers[0].sink == 4


def test_every_method_is_there_at_every_budget_and_the_full_cache_once() -> None:
    trials = baseline_trials()
    assert [trial.label for trial in trials if trial.method == "h2o"] == [f"h2o {b:g}" for b in BASELINE_BUDGETS]
    assert len(trials) == 1 + len(BASELINES) * len(BASELINE_BUDGETS)
    assert {trial.kind for trial in trials} == {"baseline"}


def test_kind_and_method_are_kept_in_the_journal(tmp_path: Path) -> None:
    """What a trial is, is told when it is enqueued; nobody reads it out of the label."""
    engine = Engine(tiny("llama"), samples(4))
    study = Study(tmp_path, {}, 0)
    study.run(engine, Space("uniform", False, 3), Plan(18), lambda _done: None)
    records = Study(tmp_path, {}, 0).records()
    told = {(record.label, record.kind, record.method) for record in records}
    assert told == {(t.label, t.kind, t.method) for t in baseline_trials()} | {("search", "search", "")}
    values = [json.loads(line)["values"] for line in (tmp_path / "study.journal").open() if '"values"' in line]
    assert values == [values_of(record.metrics) for record in records]
    assert values[1] == [records[1].metrics[QUALITY], records[1].metrics[MEMORY]]
