"""Proof on samples that nobody has seen: a ladder in a fixed order, and all figures of what is exported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from a2sf_core.policy import Policy
from tests.tuner.conftest import Finished
from tuner.judging.contest import Candidate, Contest
from tuner.judging.intervals import Interval
from tuner.judging.proof import lowest_that_holds
from tuner.search.baselines import BASELINES


def test_only_rungs_before_the_first_that_fails_count(contest: Contest) -> None:
    """Goals are set between what the rungs really lose, so that the first, the second or none of them holds."""
    budgets = (0.9, 0.5, 0.1)
    ladder = [contest.measure(f"{b}", BASELINES[0].policy(b, 3)) for b in budgets]
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


def test_what_is_exported_is_measured_on_the_report_split(finished: Finished) -> None:
    outcome = finished.result.outcome
    found = outcome.on_report
    assert found.n_samples == len(found.losses.nll) == 5
    assert len(found.with_unseen) == 6
    assert outcome.exported in (outcome.tuned, outcome.baseline)
    assert outcome.around == outcome.exported.policy
    assert outcome.exported.difference.mean == pytest.approx(float(found.with_unseen[:-1].mean()))
    assert outcome.exported.cache_fraction == pytest.approx(float(found.losses.cache_fraction.mean()))
    assert 0 <= found.generated.identical_outputs <= 1
    assert len(found.generated.most_changed) == 3


def test_around_the_full_cache_alpha_is_fitted_where_it_has_a_meaning(finished: Finished) -> None:
    outcome = finished.result.outcome
    full = Candidate("full cache", Policy.full(2), 1.0, Interval(0.0, 0.0, 0.0))
    near = replace(full, policy=Policy.h2o(2, 0.5), cache_fraction=0.5)
    baseline = replace(full, policy=Policy.tova(2, 0.5), cache_fraction=0.5)
    none = replace(outcome, exported=full, tuned=None, closest=None, baseline=None)
    assert none.around == Policy.full(2)
    assert replace(none, baseline=baseline).around == baseline.policy
    assert replace(none, baseline=baseline, closest=near).around == near.policy
