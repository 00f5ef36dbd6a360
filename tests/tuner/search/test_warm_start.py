"""What an earlier study hands to a new one, and what it was worth there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.profiling import measure_profile
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start, what_transferred


def test_a_warm_start_takes_points_from_anywhere_and_the_profile_from_the_same_study_only(tmp_path: Path) -> None:
    engine = Engine(tiny("llama"), samples(12), block_size=6, bank=Space("bump", False, 3).bank)
    identity = {"model": "m", "task": "t", "data": "d"}
    old = tmp_path / "old"
    Study(old, identity, seed=0).run(engine, Space("bump", False, 3), Plan(40), lambda _done: None)
    profile = measure_profile(engine, 1)
    profile.save(old / "profile.json")

    same = read_warm_start([old], identity)
    other = read_warm_start([old], {**identity, "task": "another"})
    assert 1 <= len(same.seeds) <= 8
    assert same.seeds == other.seeds
    assert same.profile is not None
    assert np.array_equal(same.profile.head_loss, profile.head_loss)
    assert other.profile is None

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
