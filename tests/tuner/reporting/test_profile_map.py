"""The picture of a profile: what the policy keeps of every head, whether layers are cut whole or by head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a2sf_core.policy import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from tuner.reporting.profile_map import MOST_CELLS_WITH_FIGURES, kept_shares, profile_png
from tuner.search.cut_alone import BUDGETS, CutAlone

POLICY = Policy((LayerPolicy(Decay(8.0), 0.3), LayerPolicy(Decay(), (0.1, 0.7)), LayerPolicy()))


def test_the_shares_are_those_of_the_policy() -> None:
    assert kept_shares(POLICY, 2).tolist() == [[0.3, 0.1, 1.0], [0.3, 0.7, 1.0]]


def test_small_and_large_models_are_drawn(tmp_path: Path) -> None:
    for n_layers, policy in ((3, POLICY), (MOST_CELLS_WITH_FIGURES, Policy.h2o(MOST_CELLS_WITH_FIGURES, 0.4))):
        shape = n_layers, len(BUDGETS)
        loss = np.linspace(0, 1, n_layers * 2 * len(BUDGETS)).reshape(n_layers, 2, len(BUDGETS))
        profile = CutAlone(loss.sum(1), np.full(shape, 8.0), np.full(shape, 0.5), loss, 4, 9)
        profile_png(tmp_path / "a.png", profile, policy)
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
