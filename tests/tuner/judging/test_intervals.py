"""Intervals cover, choices are held to them, and the sentence says what was found."""

from __future__ import annotations

import numpy as np
import pytest

from a2sf_core import Policy
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval, paired_interval
from tuner.judging.verdict import best_of, verdict


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        # Skewed, as losses are: most samples lose nothing, a few lose a lot.
        differences = -rng.exponential(1.0, 100) * (rng.random(100) < 0.3)
        interval = paired_interval(differences, seed=trial)
        hits += interval.low <= -0.3 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_is_the_same_for_the_same_seed_and_narrower_for_more_samples() -> None:
    rng = np.random.default_rng(1)
    many = rng.normal(size=400)
    few = paired_interval(many[:50], seed=3)
    assert few == paired_interval(many[:50], seed=3)
    wide = paired_interval(many, seed=3)
    assert wide.high - wide.low < few.high - few.low
    assert paired_interval(many[:50], 3, confidence=0.99).low < few.low


def test_equal_differences_give_a_point() -> None:
    assert paired_interval(np.zeros(20), seed=0) == Interval(0.0, 0.0, 0.0)


def test_a_loss_that_was_not_seen_is_not_ruled_out() -> None:
    """Policies that truly lose 3 points, one whole answer in 33, must not pass a goal of 1 point."""
    rng = np.random.default_rng(2)
    for n in (20, 60, 100):
        passed = 0
        for trial in range(100):
            differences = -100.0 * (rng.random(n) < 0.03)
            passed += paired_interval(differences, trial, resolution=100.0).low >= -1
        assert passed <= 5, (n, passed)
    # With one wrong token of ten as the smallest loss, 128 samples without any do show less than a point.
    assert -1 < paired_interval(np.zeros(128), 0, resolution=10.0).low < 0


def candidate(label: str, fraction: float, mean: float, low: float, high: float) -> Candidate:
    return Candidate(label, Policy.full(2), fraction, Interval(mean, low, high))


GOOD = candidate("trial 7", 0.23, -0.1, -0.4, 0.1)
BAD = candidate("trial 9", 0.2, -1.5, -2.0, -1.0)
HAND = candidate("h2o 0.6", 0.6, -0.2, -0.5, 0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (GOOD, None, HAND),
            "The tuned policy keeps 23% of the cache and loses 0.10 points (95 % interval -0.10 to 0.40) on 128 unseen "
            "samples, within the 1 point allowed. The best baseline (h2o 0.6) needs 60%.",
        ),
        (
            (BAD, None, HAND),
            "The tuned policy does not hold: it keeps 20% of the cache and loses 1.50 points (95 % interval 1.00 to "
            "2.00) on 128 unseen samples, 1 point allowed. The best baseline (h2o 0.6) needs 60%: use h2o 0.6.",
        ),
        (
            (None, BAD, None),
            "No tuned policy stays within 1 point of the full cache; the closest (trial 9) loses 1.50 points (95 % "
            "interval 1.00 to 2.00). No baseline below the full cache met the goal: keep the full cache.",
        ),
        (
            (GOOD, None, candidate("tova 0.2", 0.2, -0.1, -0.4, 0.1)),
            "The baseline wins: the tuned policy keeps 23% of the cache and loses 0.10 points (95 % interval -0.10 to "
            "0.40) on 128 unseen samples, tova 0.2 needs 20%: use tova 0.2.",
        ),
    ],
)
def test_the_sentence(arguments: tuple[Candidate | None, ...], said: str) -> None:
    assert verdict(*arguments, goal=1.0, n=128) == said


def test_a_baseline_that_fails_is_not_recommended() -> None:
    failing = candidate("h2o 0.4", 0.4, -1.4, -1.9, -0.9)
    sentence = verdict(BAD, None, failing, goal=1.0, n=128)
    assert "(h2o 0.4) does not hold" in sentence
    assert sentence.endswith("keep the full cache.")


def test_what_is_exported_is_the_smaller_one_that_holds() -> None:
    smaller = candidate("tova 0.2", 0.2, -0.1, -0.4, 0.1)
    equal = candidate("tova 0.24", 0.235, -0.1, -0.4, 0.1)
    assert best_of(GOOD, HAND, 1.0) is GOOD
    assert best_of(GOOD, smaller, 1.0) is smaller
    assert best_of(GOOD, equal, 1.0) is equal  # a tie: the simpler one
    assert best_of(BAD, HAND, 1.0) is HAND
    assert best_of(BAD, None, 1.0) is None
