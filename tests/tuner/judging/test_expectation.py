"""What is lost, expected from the KL: a line through all policies, of which none is certain to lose nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tuner.judging.foreseen import low
from tuner.judging.expectation import Expectation, Look
from tuner.judging.intervals import Paired


def looks(kls: np.ndarray, lost: np.ndarray, n: int, rng: np.random.Generator) -> list[Look]:
    """Whole answers, each lost with its policy's chance."""
    return [Look(kl, Paired.of(-100.0 * (rng.random(n) < p / 100))) for kl, p in zip(kls, lost, strict=True)]


def test_the_line_is_found_and_tells_more_than_a_policys_own_samples() -> None:
    rng = np.random.default_rng(0)
    kls = np.geomspace(0.0005, 0.3, 16)
    truth = 40 * kls**0.7
    found = [Expectation.of(looks(kls, truth, 96, rng), 100.0) for _ in range(40)]
    ours = np.array([[each.lost(kl) for kl in kls] for each in found])  # [study, policy]
    own = rng.binomial(96, truth / 100, (40, 16)) / 0.96
    assert np.median(ours, 0) == pytest.approx(truth, rel=0.25)
    assert ((ours - truth) ** 2).mean() < 0.5 * ((own - truth) ** 2).mean()


def test_no_loss_seen_is_not_no_loss_expected() -> None:
    rng = np.random.default_rng(0)
    kls = np.geomspace(0.001, 0.1, 8)
    found = Expectation.of(looks(kls, np.zeros(8), 50, rng), 100.0)
    assert 0 < found.lost(0.01) < 2
    assert found.lost(0.001) <= found.lost(0.1)


def test_the_foreseen_end_of_an_interval_is_about_what_samples_show() -> None:
    rng = np.random.default_rng(1)
    expectation = Expectation(np.log(2.0), 0.0, 100.0, 100.0)  # 2 points, whatever the KL
    lows = []
    for _ in range(200):
        paired = Paired.of(-100.0 * (rng.random(400) < 0.02)).with_unseen(100.0)
        lows.append(paired.mean - 1.96 * paired.spread / np.sqrt(401))
    assert low(expectation, 0.01, 400) == pytest.approx(np.mean(lows), rel=0.1)


@pytest.mark.parametrize("slope", [0.3, 0.8, 2.0])
def test_the_largest_kl_for_a_goal_is_where_the_goal_is_met(slope: float) -> None:
    expectation = Expectation(2.0, slope, 300.0, 1.0)
    kl = expectation.kl_losing(3.0)
    assert expectation.lost(kl) == pytest.approx(3.0)
    provable = expectation.provable(5.0, 100)
    assert low(expectation, expectation.kl_losing(provable), 100) == pytest.approx(-5.0)


def test_where_nothing_is_good_enough_no_kl_is() -> None:
    assert Expectation(5.0, 0.0, 300.0, 1.0).kl_losing(3.0) == -np.inf
    assert Expectation(1.0, 0.0, 300.0, 1.0).kl_losing(3.0) == np.inf
    whole_answers = Expectation(5.0, 0.8, 300.0, 100.0)
    assert whole_answers.kl_losing(whole_answers.provable(1.0, 20)) == -np.inf  # one unseen loss is more than a point
