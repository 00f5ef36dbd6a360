"""Intervals cover, the best of many is corrected for luck, and what was not seen is not ruled out."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.judging.intervals import Interval, level_for_many, paired_interval, samples_for


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


def test_the_number_of_samples_is_that_of_the_wanted_interval() -> None:
    rng = np.random.default_rng(2)
    pilot = rng.normal(0, 5, 4000)
    n = samples_for(pilot, 0.5)
    widths = [1.96 * rng.normal(0, 5, n).std(ddof=1) / np.sqrt(n) for _ in range(50)]
    assert np.mean(widths) == pytest.approx(0.5, rel=0.05)
