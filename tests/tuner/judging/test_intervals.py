"""Intervals cover, and what was not seen is not ruled out."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.judging.intervals import Interval, Paired, paired_interval, samples_for


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        # Skewed, as losses are: most samples lose nothing, a few lose a lot.
        differences = -rng.exponential(1.0, 100) * (rng.random(100) < 0.3)
        interval = paired_interval(differences, seed=trial)
        hits += interval.low <= -0.3 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_it_covers_where_questions_on_one_context_fail_together() -> None:
    rng = np.random.default_rng(0)
    hits, naive = 0, 0
    for trial in range(200):
        contexts = np.repeat(np.arange(40), 5)
        differences = -10.0 * (rng.random(40) < 0.3)[contexts] + rng.normal(0, 1, 200)
        interval = paired_interval(differences, trial, contexts=contexts)
        hits += interval.low <= -3 <= interval.high
        alone = paired_interval(differences, trial)
        naive += alone.low <= -3 <= alone.high
    assert 0.88 <= hits / 200 <= 0.99
    assert naive / 200 < 0.75, "as if they were independent, it would be far too narrow"


def test_the_interval_is_the_same_for_the_same_seed_and_narrower_for_more_samples() -> None:
    rng = np.random.default_rng(1)
    many = rng.normal(size=400)
    few = paired_interval(many[:50], seed=3)
    assert few == paired_interval(many[:50], seed=3)
    wide = paired_interval(many, seed=3)
    assert wide.high - wide.low < few.high - few.low


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


def test_an_unseen_context_may_lose_all_its_questions() -> None:
    one_context = paired_interval(np.zeros(50), 0, 100.0, np.zeros(50))
    assert one_context.low == -100
    paired = Paired.of(np.zeros(50), np.repeat(np.arange(10), 5)).with_unseen(100.0)
    assert (paired.n_contexts, paired.sums[-1], paired.counts[-1]) == (11, -500.0, 5.0)


def test_the_number_of_samples_is_that_of_the_wanted_interval() -> None:
    rng = np.random.default_rng(2)
    pilot = Paired.of(rng.normal(0, 5, 4000))
    n = samples_for(pilot, 0.5)
    widths = [1.96 * rng.normal(0, 5, n).std(ddof=1) / np.sqrt(n) for _ in range(50)]
    assert np.mean(widths) == pytest.approx(0.5, rel=0.05)


def test_the_lower_end_is_wrong_no_more_often_than_it_says() -> None:
    """At the sizes where the percentile of a count alone would be too kind."""
    rng = np.random.default_rng(3)
    lows: dict[int, float] = {}
    for n in (30, 78, 99, 156):
        wrong = 0
        for lost in rng.binomial(n, 0.04, 4000).tolist():
            if lost not in lows:
                lows[lost] = paired_interval(np.where(np.arange(n) < lost, -100.0, 0.0), 0, 100.0).low
            wrong += lows[lost] >= -3.99
        assert wrong / 4000 <= 0.027, n
        lows.clear()
