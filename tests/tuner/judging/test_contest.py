"""What every contender is held to: given up early only when lost, bisected to the smallest budget."""

from __future__ import annotations

from dataclasses import replace

from tuner.judging.contest import BUDGET_STEPS, Contest
from tuner.search.baselines import BASELINES


def test_giving_up_early_agrees_with_measuring_everything(contest: Contest) -> None:
    hard = replace(contest, max_degradation=0.0)
    for budget in (0.05, 0.3, 0.9):
        params = BASELINES[0].params(budget)
        whole = hard.measure("all", contest.space.policy(params))
        found = hard.measure_if_hopeful("some", params)
        if found is None:
            assert whole.difference.mean < 0
        else:
            assert found.difference == whole.difference


def test_the_bisection_ends_at_the_smallest_budget_that_meets_the_goal(contest: Contest) -> None:
    easy = replace(contest, max_degradation=100.0)
    assert easy.winner(easy.bisect("h2o", BASELINES[0].params(1.0))).policy.layers[0].budget == BUDGET_STEPS[0]
    around = [c.policy.layers[0].budget for c in easy.bisect("h2o", BASELINES[0].params(1.0), around=0.4)]
    assert min(around) == min(budget for budget in BUDGET_STEPS if budget >= 0.2)
    assert max(around) <= 0.8
