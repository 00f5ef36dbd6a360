"""The alpha regressor finds a rule that is there, stays with the constant where none is, and never guesses outside."""

from __future__ import annotations

import json

import numpy as np

from tuner.engine import HALF_LIVES
from tuner.suggest import BUDGET_SCALES, AlphaModel, LossTable, fit


def table(seed: int, inputs: int, best: float | None) -> LossTable:
    """Losses whose best half-life is ``best`` times the length (or 16 tokens for all if None), with noise."""
    rng = np.random.default_rng(seed)
    tokens = np.tile(np.exp(rng.uniform(np.log(100), np.log(2000), inputs)), len(BUDGET_SCALES)).round()
    fraction = np.repeat([0.4 * scale for scale in BUDGET_SCALES], inputs)
    places = np.log2(1 + np.minimum(np.array(HALF_LIVES), 8000.0))
    goal = np.log2(1 + (tokens * best if best else np.full_like(tokens, 16.0)))
    loss = 0.1 * (places[None] - goal[:, None]) ** 2 + rng.normal(0, 0.05, (len(tokens), len(HALF_LIVES)))
    return LossTable(tokens, fraction, 1 + loss)


def test_a_rule_in_the_length_is_found_and_survives_json() -> None:
    model, _ = fit(table(0, 120, 0.1), table(1, 80, 0.1), fraction=0.4, seed=0)
    assert model.kind == "cubic surface"
    assert model.gain.low > 0
    assert model.regret_model < 0.5 * model.regret_constant
    again = AlphaModel.from_dict(json.loads(json.dumps(model.to_dict())))
    assert again == model
    short, _ = again.suggest(150)
    long, remark = again.suggest(1900)
    assert remark == ""
    assert short < long
    assert 6 <= short <= 32
    assert 96 <= long <= 384


def test_without_a_rule_the_constant_stays_and_says_why() -> None:
    model, _ = fit(table(0, 60, None), table(1, 60, None), fraction=0.4, seed=0)
    assert model.kind == "constant"
    half_life, remark = model.suggest(500)
    assert half_life == model.constant_half_life
    assert 8 <= half_life <= 32
    assert "does not beat the best constant on 60 held-out inputs" in remark


def test_outside_the_fitted_lengths_the_constant_is_given() -> None:
    model, _ = fit(table(0, 120, 0.1), table(1, 80, 0.1), fraction=0.4, seed=0)
    half_life, remark = model.suggest(30_000)
    assert half_life == model.constant_half_life
    assert "30000 tokens lie outside" in remark
