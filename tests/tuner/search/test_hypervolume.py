"""One number for a front, its best points, and when a study stands still."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.search.hypervolume import front, hypervolume, stood_still


def test_hypervolume_is_the_area_that_a_fine_grid_counts() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform((0, -0.1), (1.1, 1.3), (12, 2))]
    axis = (np.arange(2000) + 0.5) / 2000
    memory, loss = np.meshgrid(axis, axis)
    dominated = np.zeros_like(memory, dtype=bool)
    for x, y in points:
        dominated |= (memory >= x) & (loss >= y)
    assert hypervolume(points, 1.0) == pytest.approx(dominated.mean(), abs=2e-3)
    assert hypervolume([], 1.0) == 0


def test_the_front_is_what_no_other_beats() -> None:
    points = [(0.5, 0.1), (0.2, 0.3), (0.5, 0.1), (0.6, 0.2), (0.1, 0.9)]
    assert front(points) == [4, 1, 0]


def test_standing_still_needs_patience() -> None:
    points = [(0.5, 0.1), *[(0.9, 0.19)] * 5]
    assert stood_still(points, patience=5, least_gain=0.01)
    assert not stood_still(points, patience=6, least_gain=0.01)
    assert not stood_still([*points, (0.2, 0.0)], patience=5, least_gain=0.01)
