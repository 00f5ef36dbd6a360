"""What an earlier study hands to a new one, and what it was worth there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.cut_alone import CutAlone
from tuner.search.objectives import MEMORY
from tuner.search.profile_file import Profiled
from tuner.search.profiling import measure_profile
from tuner.search.records import FirstTrial
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start, what_transferred


def test_a_warm_start_takes_points_from_anywhere_and_the_profile_from_the_same_study_only(tmp_path: Path) -> None:
    engine = Engine(tiny("llama"), samples(12), block_size=6, bank=Space("bump", False, 3).bank)
    identity = {"model": "m", "task": "t", "data": "d"}
    old = tmp_path / "old"
    Study(old, identity, seed=0).run(engine, Space("bump", False, 3), Plan(40), lambda _done: None)
    profile = measure_profile(engine, 1)
    Profiled(profile).save(old / "profile.json")

    same = read_warm_start([old], identity)
    other = read_warm_start([old], {**identity, "task": "another"})
    assert 1 <= len(same.seeds) <= 8
    assert same.seeds == other.seeds
    assert same.profile is not None
    assert isinstance(same.profile.used, CutAlone)
    assert np.array_equal(same.profile.used.head_loss, profile.head_loss)
    assert other.profile is None
    assert same.remark == other.remark == ""
    early = read_warm_start([old], {**identity, "cut": "context", "task": "another"})
    assert early.remark == f"{old} was tuned for cut: prompt, this run is for cut: context; its points may not suit."
    assert early.seeds == same.seeds

    # Another space, another number of layers: the points are tried right after those of the study's own.
    space = Space("groups", True, 3, profile)
    new = Study(tmp_path / "new", {**identity, "task": "another"}, seed=0)
    apart = sum(trial.policy is not None for trial in space.enqueued())
    points = len(space.enqueued()) - apart
    new.run(engine, space, Plan(points + len(other.seeds) + apart, seeds=other.seeds), lambda _done: None)
    records = new.records()
    labels = [record.label for record in records]
    assert labels[points : points + len(other.seeds)] == [seed.label for seed in other.seeds]
    kinds = [False] * 8 + [True] * (points - 8) + [False] * len(other.seeds) + [True] * apart
    assert [record.is_baseline for record in records] == kinds
    assert f"of {len(other.seeds)} points taken over" in what_transferred(records)
    assert what_transferred(records[:points]) == ""
    assert engine.evaluate(Policy.full(3)).finite()


def test_a_seed_under_a_rule_that_is_not_searched_is_left_out(tmp_path: Path) -> None:
    """Under any other rule its point would be another policy, and judged as if it were the old one."""
    space = Space("uniform", False, 3, rules=("decay",))
    engine = Engine(tiny("llama"), samples(4), bank=space.bank)
    seeds = [
        FirstTrial(f"seed {rule}", "seed", "warm start", {"rule": rule, "budget": 0.3}) for rule in ("decay", "window")
    ]
    study = Study(tmp_path, {}, seed=0)
    study.run(engine, space, Plan(len(space.enqueued()) + 1, seeds=seeds), lambda _done: None)
    assert [record.label for record in study.records() if record.kind == "seed"] == ["seed decay"]


def test_points_from_before_rules_had_names_keep_their_rule(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    study = optuna.create_study(storage=storage, study_name="a2sf", directions=["minimize", "minimize"])
    for window, budget in ((0, 0.2), (1, 0.4)):
        study.add_trial(
            optuna.trial.create_trial(
                params={"window": window, "budget": budget},
                distributions={"window": IntDistribution(0, 1), "budget": FloatDistribution(0.03, 1.0, log=True)},
                values=[1 - budget, budget],
                user_attrs={"result": {"policy": "{}", "metrics": {MEMORY: budget}, "sample_kl": []}},
            )
        )
    seeds = read_warm_start([tmp_path], {"model": "m", "task": "t", "data": "d"}).seeds
    assert [seed.params for seed in seeds] == [{"rule": "decay", "budget": 0.2}, {"rule": "window", "budget": 0.4}]
