"""The curve of a learned rule is its slope, and the picture is drawn."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from a2sf_core.half_life import alpha_of
from a2sf_core.rules.learned import Learned
from tuner.reporting.learned_curves import AGES, curves, learned_png

RULE = Learned((1.0, 16.0, inf), ((0.0, 1.0, 0.0), (-0.3, 0.5, 0.8)), (1.0, 0.0))


def test_one_half_life_is_its_own_exponential() -> None:
    assert curves([RULE])[0] == pytest.approx(alpha_of(16) ** AGES)


def test_a_curve_is_what_one_look_more_adds() -> None:
    """A token that every query looks at alike, and a little more at one age."""
    decays = np.array([alpha_of(h) ** np.arange(AGES[-1] + 1) for h in RULE.half_lives])  # [half_life, age]
    powers = np.array(RULE.powers[1])
    small = 1e-6
    added = [
        powers @ np.log(decays.sum(1) + small * decays[:, int(age)]) - powers @ np.log(decays.sum(1)) for age in AGES
    ]
    assert curves([RULE])[1] == pytest.approx(np.array(added) / np.abs(added).max(), abs=1e-3)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    learned_png(tmp_path / "learned.png", [RULE, RULE])
    picture = imread(tmp_path / "learned.png")
    assert picture.shape[:2] == (1100, 1600)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
