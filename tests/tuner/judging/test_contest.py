"""Choosing among many: corrected for luck, given up early only when lost, proven on a ladder in a fixed order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from a2sf_core import Policy
from tests.tuner.models import samples, tiny
from tuner.judging.choice import choose
from tuner.judging.contest import BUDGET_STEPS, Contest
from tuner.judging.grading import Grader
from tuner.judging.intervals import level_for_many, samples_for
from tuner.judging.proof import lowest_that_holds
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINES
from tuner.search.profiling import measure_profile
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start, what_transferred

MODEL = tiny("llama")
SPACE = Space("bump", False, 3)
H2O = Shape.of_baseline(BASELINES[0], 3)


@pytest.fixture(scope="module")
def contest() -> Contest:
    """A random model right about one token in 97, so the goal is set by what pruning changes at all."""
    engine = Engine(MODEL, samples(40), block_size=10)
    return Contest(engine, Grader("token_accuracy", MODEL, None, 1), 1.0, seed=0)


def test_candidates_that_are_alike_cost_nothing_and_independent_ones_their_number() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=60)
    assert level_for_many([one] * 20, 0, 0.05) == pytest.approx(0.05, rel=0.1)
    assert level_for_many(list(rng.normal(size=(20, 60))), 0, 0.05) == pytest.approx(0.05 / 20, rel=0.35)
    # One that never loses anything cannot be lucky.
    assert level_for_many([one, np.zeros(60)], 0, 0.05) == pytest.approx(0.05, rel=0.1)
    assert level_for_many([np.zeros(60)], 0, 0.05) > 0


def test_the_best_of_many_equal_candidates_is_not_believed() -> None:
    """Twenty candidates that truly lose 1 point: at the corrected level hardly one in twenty studies believes one."""
    rng = np.random.default_rng(1)
    fooled = 0
    for trial in range(60):
        table = rng.normal(-1, 4, (20, 64))
        level = level_for_many(list(table), trial, 0.025)
        draws = rng.multinomial(64, np.full(64, 1 / 64), 2000) / 64  # [resample, sample]
        fooled += bool((np.quantile(draws @ table.T, level, axis=0) > -1).any())
    assert fooled / 60 <= 0.1


def test_giving_up_early_agrees_with_measuring_everything(contest: Contest) -> None:
    hard = replace(contest, max_degradation=0.0)
    for budget in (0.05, 0.3, 0.9):
        whole = hard.measure("all", H2O.at(budget))
        found = hard.measure_if_hopeful("some", H2O, budget)
        if found is None:
            assert whole.difference.mean < 0
        else:
            assert found.difference == whole.difference


def test_the_bisection_ends_at_the_smallest_budget_that_meets_the_goal(contest: Contest) -> None:
    easy = replace(contest, max_degradation=100.0)
    assert easy.winner(easy.bisect(H2O)).policy.layers[0].budget == BUDGET_STEPS[0]
    around = [c.policy.layers[0].budget for c in easy.bisect(replace(H2O, found_at=0.4))]
    assert min(around) == min(budget for budget in BUDGET_STEPS if budget >= 0.2)
    assert max(around) <= 0.8


def test_only_rungs_before_the_first_that_fails_count(contest: Contest) -> None:
    """Goals are set between what the rungs really lose, so that the first, the second or none of them holds."""
    budgets = (0.9, 0.5, 0.1)
    ladder = [contest.measure(f"{b}", H2O.at(b)) for b in budgets]
    lows = [candidate.difference.low for candidate in ladder]

    def held(goal: float) -> str:
        found = lowest_that_holds(replace(contest, max_degradation=goal), ladder)
        assert found is not None
        return found.label

    for goal in sorted({-low for low in lows if low <= 0} | {1000.0}):
        expected = ladder[0].label
        for candidate in ladder:
            if candidate.difference.low < -goal:
                break
            expected = candidate.label
        assert held(goal) == expected
    assert held(1000.0) == "0.1"
    assert lowest_that_holds(contest, []) is None


def test_a_choice_is_a_ladder_that_ends_with_the_smallest(contest: Contest, tmp_path: Path) -> None:
    search = Engine(MODEL, samples(16), block_size=8)
    study = Study(tmp_path, {"model": "m"}, seed=0)
    study.run(search, SPACE, Plan(40), lambda _done: None)
    choice = choose(replace(contest, max_degradation=8.0), SPACE, study.records())
    assert choice.picked
    assert choice.known
    assert 0.95 <= choice.confidence < 1
    for ladder in (choice.picked, choice.known):
        sizes = [candidate.cache_fraction for candidate in ladder]
        assert sizes == sorted(sizes, reverse=True)
        assert all(candidate.meets(8.0) for candidate in ladder)


def test_the_number_of_samples_is_that_of_the_wanted_interval() -> None:
    rng = np.random.default_rng(2)
    pilot = rng.normal(0, 5, 4000)
    n = samples_for(pilot, 0.5)
    widths = [1.96 * rng.normal(0, 5, n).std(ddof=1) / np.sqrt(n) for _ in range(50)]
    assert np.mean(widths) == pytest.approx(0.5, rel=0.05)


def test_a_warm_start_takes_points_from_anywhere_and_the_profile_from_the_same_study_only(tmp_path: Path) -> None:
    engine = Engine(MODEL, samples(12), block_size=6)
    identity = {"model": "m", "task": "t", "data": "d"}
    old = tmp_path / "old"
    Study(old, identity, seed=0).run(engine, SPACE, Plan(40), lambda _done: None)
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
    new.run(engine, space, Plan(30 + len(other.seeds), seeds=other.seeds), lambda _done: None)
    records = new.records()
    labels = [record.label for record in records]
    assert labels[21 : 21 + len(other.seeds)] == [seed.label for seed in other.seeds]
    kinds = [False] * 8 + [True] * 13 + [False] * len(other.seeds) + [True] * 9
    assert [record.is_baseline for record in records] == kinds
    assert f"of {len(other.seeds)} points taken over" in what_transferred(records)
    assert what_transferred(records[:21]) == ""
    assert engine.evaluate(Policy.full(3)).finite()
