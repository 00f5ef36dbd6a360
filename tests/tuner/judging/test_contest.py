"""What every contender is held to: given up early only when lost, bisected to the smallest budget."""

from __future__ import annotations

from dataclasses import replace

from tuner.judging.contest import BUDGET_STEPS, Contest
from tuner.judging.shape import Shape
from tuner.search.baselines import BASELINES

H2O = Shape.of_baseline(BASELINES[0], 3)


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
