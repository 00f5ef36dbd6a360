"""The alpha regressor finds a rule that is there, stays with the constant where none is, and never guesses outside."""

from __future__ import annotations

import json
import math

import numpy as np

from a2sf_core import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import samples, tiny
from tuner.alpha.model import AlphaModel
from tuner.alpha.regressor import _fit_surface, fit, judge
from tuner.alpha.table import BUDGET_SCALES, LossTable, loss_table, uses_alpha
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine


def table(seed: int, inputs: int, best: float | None, scales: tuple[float, ...] = BUDGET_SCALES) -> LossTable:
    """Losses whose best half-life is ``best`` times the length (16 tokens if None) at any budget, with noise."""
    rng = np.random.default_rng(seed)
    tokens = np.tile(np.exp(rng.uniform(np.log(100), np.log(2000), inputs)), len(scales)).round()
    fraction = np.repeat([0.4 * scale for scale in scales], inputs)
    places = np.log2(1 + np.minimum(np.array(HALF_LIVES), 8000.0))
    goal = np.log2(1 + (tokens * best if best else np.full_like(tokens, 16.0)))
    loss = 0.1 * (places[None] - goal[:, None]) ** 2 + rng.normal(0, 0.05, (len(tokens), len(HALF_LIVES)))
    return LossTable(tokens, fraction, 1 + loss)


def judged(best: float | None, alpha_matters: bool = True) -> AlphaModel:
    train = table(0, 120, best)
    deciding, proving = table(1, 80, best, (1.0,)), table(2, 80, best, (1.0,))
    return judge(train, _fit_surface(train, 0.1), deciding, lambda: proving, 0, alpha_matters)


def test_a_rule_in_the_length_is_found_and_survives_json() -> None:
    model = judged(0.1)
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
    model = judged(None)
    assert model.kind == "constant"
    half_life, remark = model.suggest(500)
    assert half_life == model.constant_half_life
    assert 8 <= half_life <= 32
    assert "does not beat the best constant on unseen inputs" in remark


def test_outside_the_fitted_lengths_the_constant_is_given() -> None:
    model = judged(0.1)
    half_life, remark = model.suggest(30_000)
    assert half_life == model.constant_half_life
    assert "30000 tokens lie outside" in remark


def test_a_policy_that_ranks_by_position_needs_no_alpha() -> None:
    assert not uses_alpha(Policy.streaming_llm(2, 0.4))
    assert not uses_alpha(Policy.snapkv(2, 0.4))
    assert not uses_alpha(Policy.full(2))
    assert uses_alpha(Policy((LayerPolicy(Decay(8.0), 0.3), LayerPolicy(Decay(math.inf), 1.0))))
    assert judged(0.1, alpha_matters=False).suggest(500)[1].startswith("the policy does not rank tokens by decayed")


def test_the_constant_is_the_best_one_of_the_engine_at_the_tuned_budget() -> None:
    policy = Policy.a2sf(3, 0.4, 0.9)
    engines = [Engine(tiny("llama"), samples(count)) for count in (8, 6, 6)]
    train = loss_table(engines[0], policy)
    model, _ = fit(train, policy, engines[1], engines[2], seed=0)
    uniform = [engines[0].evaluate(Policy.uniform(3, rule=Decay(h), budget=0.4)).nll.mean() for h in HALF_LIVES]
    assert model.constant_half_life == HALF_LIVES[int(np.argmin(uniform))]
