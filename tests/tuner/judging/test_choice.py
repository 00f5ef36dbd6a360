"""The choice among many: a ladder from safe to bold around the smallest cache that is expected to hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.tuner.judging.foreseen import low
from tests.tuner.models import samples, tiny
from tuner.judging.choice import Choice, choose
from tuner.judging.contest import Contest, Proposal
from tuner.judging.expectation import Expectation
from tuner.judging.ladder import BUDGET_STEPS, RUNGS, Planner
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINES
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.watch import Count, silent

H2O = Shape.of_baseline(BASELINES[0], 3)


@pytest.fixture(scope="module")
def chosen(contest: Contest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Choice, Contest]:
    space = Space("bump", False, 3)
    search = Engine(tiny("llama"), samples(16), block_size=8, bank=space.bank)
    study = Study(tmp_path_factory.mktemp("study"), {"model": "m"}, seed=0)
    study.run(search, space, Plan(40), lambda _done: None)
    steps: list[tuple[int, int]] = []
    goal = replace(contest, max_degradation=0.5)
    both = replace(goal, engines=(search, *goal.engines))
    found = choose(both, 400, space, study.records(), lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] > 0
    return found, both


def test_a_choice_is_a_ladder_from_safe_to_bold(chosen: tuple[Choice, Contest]) -> None:
    choice, seen = chosen
    for ladder in (choice.picked, choice.known):
        assert ladder is not None
        kept = [seen.cache_fraction(rung.policy) for rung in ladder.rungs]
        assert kept[0] >= kept[-1]
        budgets = [rung.budget for rung in ladder.rungs]
        assert budgets == sorted(set(budgets), reverse=True)
        assert ladder.around.proposal in ladder.rungs
        lost = [choice.expectation.lost(seen.largest_kl(rung.policy)) for rung in ladder.rungs]
        assert lost[0] <= ladder.around.lost <= lost[-1]
        assert low(choice.expectation, seen.largest_kl(ladder.around.proposal.policy), 400) >= -0.5
    assert choice.picked is not None
    assert choice.picked.around.proposal.label.startswith("trial ")
    assert choice.finalists


def planner(contest: Contest, goal: float, n_judges: int) -> Planner:
    expectation = Expectation(3.0, 0.8, 300.0, 20.0)
    return Planner(replace(contest, max_degradation=goal), expectation, n_judges)


def test_it_is_the_smallest_budget_that_is_expected_to_be_proven(contest: Contest) -> None:
    """Against trying every budget."""
    for goal in (5.0, 8.0, 12.0):
        own = planner(contest, goal, 400)
        ladder = own.ladder([H2O], Count(silent, 1))
        good = [step for step in BUDGET_STEPS
                if low(own.expectation, contest.kl(H2O.at(step)), 400) >= -goal]  # fmt: skip
        assert (ladder is not None) == bool(good)
        if ladder:
            assert ladder.around.proposal.budget in good
            step_below = BUDGET_STEPS[BUDGET_STEPS.index(ladder.around.proposal.budget) - 1]
            assert step_below not in good or ladder.around.proposal.budget == BUDGET_STEPS[0]


def test_where_nothing_can_be_proven_the_best_estimate_is_chosen(contest: Contest) -> None:
    own = planner(contest, 5.0, 2)
    ladder = own.ladder([H2O], Count(silent, 1))
    assert ladder is not None
    assert low(own.expectation, contest.kl(ladder.around.proposal.policy), 2) < -5
    assert ladder.around.lost <= 5
    assert planner(contest, 0.0, 2).ladder([H2O], Count(silent, 1)) is None


def test_a_shape_that_cannot_beat_the_best_costs_one_look(contest: Contest) -> None:
    own = planner(contest, 12.0, 400)
    alone = own.ladder([H2O], Count(silent, 1))
    both = own.ladder([H2O, replace(H2O, name="again")], Count(silent, 2))
    assert alone is not None
    assert both is not None
    assert both.around == alone.around
    assert own.estimate(Proposal.of(H2O, 0.3)).cache_fraction == contest.cache_fraction(H2O.at(0.3))


def test_a_shape_that_is_far_worse_is_not_measured_to_the_end(contest: Contest) -> None:
    seen = Engine(tiny("llama"), samples(40), block_size=10, bank=Space("bump", False, 3).bank)
    own = planner(replace(contest, engines=(seen,)), 12.0, 400)
    worse = Shape("worse", lambda budget: H2O.at(budget / 8))
    good = own.expectation.kl_losing(own.expectation.provable(12.0, 400))
    best = own.smallest([H2O], good)
    before = seen.passes
    assert own.smallest([H2O, worse], good) == best
    assert 1 <= seen.passes - before < seen.n_blocks


def test_rungs_read_off_a_curve_lose_about_what_they_should(chosen: tuple[Choice, Contest]) -> None:
    choice, seen = chosen
    assert choice.known is not None
    middle = choice.known.around
    for rung in choice.known.rungs:
        lost = choice.expectation.lost(seen.largest_kl(rung.policy))
        aimed = min((share * middle.lost for share in (1.0, *RUNGS)), key=lambda share: abs(math.log(share / lost)))
        assert lost == pytest.approx(aimed, rel=0.5)
