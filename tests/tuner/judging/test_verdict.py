"""The sentence says what was found, and the smaller one that holds is exported."""

from __future__ import annotations

import pytest

from a2sf_core.policy import Policy
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval
from tuner.judging.verdict import best_of, verdict


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
