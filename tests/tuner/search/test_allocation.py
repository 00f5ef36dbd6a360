"""Budgets go where they help most; checked against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tuner.search.allocation import allocate, fill, lower_hull

BUDGETS = (0.25, 0.5, 0.75, 1.0)


def test_the_hull_leaves_out_what_no_mixture_needs() -> None:
    assert lower_hull([0.1, 0.2, 0.4, 1.0], [1.0, 0.9, 0.2, 0.0]) == [(0.1, 1.0), (0.4, 0.2), (1.0, 0.0)]
    assert lower_hull([0.1, 0.5, 1.0], [0.0, 0.0, 0.0]) == [(0.1, 0.0)]
    # More can hurt by chance; the curve ends at its best.
    assert lower_hull([0.1, 0.5, 1.0], [1.0, 0.0, 0.3]) == [(0.1, 1.0), (0.5, 0.0)]


def test_no_allocation_on_the_grid_is_better() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Convex falling curves, for which dealing out by slope is optimal at every multiple of the step.
        drops = np.sort(rng.exponential(1.0, (3, 3)), axis=1)[:, ::-1]
        losses = np.concatenate([drops[:, ::-1].cumsum(1)[:, ::-1], np.zeros((3, 1))], axis=1)  # [unit, budget]
        for steps in range(3, 13):
            shares = allocate(BUDGETS, losses, steps / 12)
            assert shares.mean() == pytest.approx(steps / 12)
            ours = sum(np.interp(share, BUDGETS, row) for share, row in zip(shares, losses, strict=True))
            best = min(
                sum(losses[unit, place] for unit, place in enumerate(places))
                for places in itertools.product(range(4), repeat=3)
                if sum(place + 1 for place in places) == steps
            )
            assert ours == pytest.approx(best)


def test_a_unit_that_does_not_care_gets_the_least() -> None:
    shares = allocate(BUDGETS, np.array([[0.0] * 4, [3.0, 2.0, 1.0, 0.0]]), 0.5)
    assert shares == pytest.approx([0.25, 0.75])
    # What nobody needs is dealt out all the same, and below the smallest measured budget all get the same.
    assert allocate(BUDGETS, np.zeros((2, 4)), 0.6) == pytest.approx([0.6, 0.6])
    assert allocate(BUDGETS, np.array([[0.0] * 4, [1.0] * 3 + [0.0]]), 0.1) == pytest.approx([0.1, 0.1])


def test_proportional_shares_keep_their_mean_and_never_pass_1() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        weights = rng.lognormal(0, 2, 8).tolist()
        mean = float(rng.uniform(0.02, 1))
        shares = fill(mean, weights)
        assert np.mean(shares) == pytest.approx(mean)
        assert max(shares) <= 1 + 1e-12
        below = [i for i, share in enumerate(shares) if share < 1]
        assert np.ptp([shares[i] / weights[i] for i in below] or [0]) < 1e-9
