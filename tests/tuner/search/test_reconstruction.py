"""The profile of reconstruction: shares that sum to the total, the same as ranking all tokens by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.search.profile import Recency
from tuner.search.reconstruction import FLOOR, RECENT, SINK, TOTALS, Reconstruction, kept_shares


@pytest.fixture(scope="module")
def attention() -> np.ndarray:
    """One head is looked at a lot, one not at all."""
    found = np.random.default_rng(0).random((3, 2, 50)) ** 3
    found[1, 0] *= 100
    found[2, 1] = 0
    return found


def test_all_heads_compete_and_the_sinks_always_stay(attention: np.ndarray) -> None:
    found = kept_shares(attention)
    assert found.shape == (len(TOTALS), 3, 2)
    for place, total in enumerate(TOTALS):
        worth = [
            (np.inf if token < SINK else attention[layer, head, token], layer, head)
            for layer in range(3)
            for head in range(2)
            for token in range(50)
        ]
        best = sorted(worth, key=lambda each: -each[0])[: round(total * 300)]
        by_hand = np.zeros((3, 2))
        for _, layer, head in best:
            by_hand[layer, head] += 1 / 50
        assert found[place] == pytest.approx(by_hand)
    assert (found[3:, 2, 1] == SINK / 50).any()


@pytest.mark.parametrize("total", [0.005, 0.02, 0.1, 0.35, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("floor", [0.0, FLOOR, 1.0])
def test_budgets_have_the_mean_that_is_asked_for(attention: np.ndarray, total: float, floor: float) -> None:
    shares = Reconstruction(kept_shares(attention)[None], floor).budgets(total)
    assert shares.mean() == pytest.approx(total)
    assert shares.max() <= 1
    assert shares.min() >= floor * total - 1e-12
    if floor == 1:
        assert shares == pytest.approx(total)
    if 0.02 < total < 0.6 and floor < 1:
        assert shares[1, 0] == shares.max()
        assert shares[2, 1] == shares.min()


def test_the_curves_pass_through_what_was_found(attention: np.ndarray) -> None:
    kept = np.stack([kept_shares(attention), kept_shares(attention[:, :, ::-1])])
    profile = Reconstruction(kept, 0.0)
    for place, total in enumerate(TOTALS):
        assert profile.budgets(total) == pytest.approx(kept[:, place].mean(0), abs=0.01)
    assert profile.recencies(np.array([0.1, 0.2, 0.3])) == [Recency(16.0, RECENT)] * 3


def test_the_spread_falls_with_the_prompts() -> None:
    rng = np.random.default_rng(1)
    kept = np.array([[np.full((4, 2), total) for total in TOTALS]] * 8) * rng.uniform(0.8, 1.2, (8, 1, 4, 2))
    assert Reconstruction(kept[:1]).spread() == float("inf")
    assert 0 < Reconstruction(kept).spread() < Reconstruction(kept[:2]).spread() * 1.5
    assert Reconstruction(np.repeat(kept[:1], 3, 0)).spread() == pytest.approx(0)
