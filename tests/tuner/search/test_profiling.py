"""The profile: what it measures is what cutting alone costs, and it looks only where it hurts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.cut_alone import BUDGETS, NEGLIGIBLE, CutAlone
from tuner.search.profile import Recency
from tuner.search.profile_part import Part
from tuner.search.profiling import MOST_REFINED, RECENTS, START, cut_alone, measure_profile


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny("llama"), samples(20), block_size=10)


@pytest.fixture(scope="module")
def profile(engine: Engine) -> CutAlone:
    return measure_profile(engine, 1)


def loss_alone(engine: Engine, layer: int, heads: tuple[int, ...], recency: Recency, budget: float) -> float:
    full = engine.evaluate_blocks(Policy.full(engine.n_layers), 1).losses.nll
    policy = cut_alone(engine, layer, heads, recency, budget)
    return float((engine.evaluate_blocks(policy, 1).losses.nll - full).mean())


def test_the_profile_says_what_cutting_one_head_alone_costs(engine: Engine, profile: CutAlone) -> None:
    assert profile.head_loss.shape == (3, 2, len(BUDGETS))
    assert profile.n_samples == 10
    checked = 0
    for layer in range(3):
        for place, budget in enumerate(BUDGETS):
            recency = profile.recency(layer, place)
            whole = profile.layer_loss[layer, place]
            if whole:
                assert whole == pytest.approx(loss_alone(engine, layer, (0, 1), recency, budget))
                checked += 1
            assert profile.head_loss[layer, :, place].sum() == pytest.approx(whole)
            alone = [loss_alone(engine, layer, (head,), recency, budget) for head in (0, 1)]
            if whole and min(alone) >= NEGLIGIBLE and min(profile.head_loss[layer, :, place]) > 0:
                shares = profile.head_loss[layer, :, place] / whole
                assert shares == pytest.approx(np.array(alone) / sum(alone))
                checked += 1
    assert checked > 5, "a random model suffers when a layer or head is cut"


def test_the_rule_of_a_layer_is_the_best_of_its_row_and_column(engine: Engine, profile: CutAlone) -> None:
    for layer in range(3):
        for place, budget in enumerate(BUDGETS):
            if found := profile.layer_loss[layer, place]:
                half_life = profile.half_life[layer, place]
                others = [loss_alone(engine, layer, (0, 1), Recency(half_life, recent), budget) for recent in RECENTS]
                assert found <= min(others) + 1e-12


def test_only_the_most_sensitive_layers_of_a_deep_model_are_looked_into() -> None:
    model = tiny("llama", MOST_REFINED + 2)
    found = measure_profile(Engine(model, samples(10), block_size=10), 1)
    looked_into = {layer for layer in range(MOST_REFINED + 2) if np.ptp(found.head_loss[layer], axis=0).any()}
    assert 0 < len(looked_into) <= MOST_REFINED
    for layer in set(range(MOST_REFINED + 2)) - looked_into:
        assert (found.half_life[layer] == START.half_life).all()
        assert found.head_loss[layer].sum(0) == pytest.approx(found.layer_loss[layer])
    cost = found.layer_loss.sum(-1)
    left_out = [cost[layer] for layer in range(MOST_REFINED + 2) if layer not in looked_into]
    assert len(left_out) >= 2


def test_a_head_that_does_not_matter_is_found_by_halving() -> None:
    """One KV head of OPT's four is silenced by zero values: it costs nothing to cut, and its neighbours do cost."""
    model = tiny("opt")
    attention = model.model.decoder.layers[1].self_attn
    size = model.config.hidden_size // 4
    attention.v_proj.weight.data[2 * size : 3 * size] = 0
    attention.v_proj.bias.data[2 * size : 3 * size] = 0
    found = measure_profile(Engine(model, samples(12), block_size=12), 1)
    assert (found.head_loss[1, 2] == 0).all()
    assert (found.head_loss[1, [0, 1, 3], 0] >= NEGLIGIBLE).any()


def test_no_layer_is_looked_into_beyond_what_may_be_spent() -> None:
    engine = Engine(tiny("llama"), samples(12), block_size=12)
    found = measure_profile(engine, 1, most_evaluations=1)
    assert 0 < found.evaluations <= 4 * 3
    assert (found.half_life == START.half_life).all()
    assert not np.ptp(found.head_loss, axis=1).any(), "heads are not told apart"


def test_a_profile_that_was_stopped_goes_on_where_it_stopped(engine: Engine, profile: CutAlone, tmp_path: Path) -> None:
    """Half of what was measured is there: the rest is measured, and the profile is the same."""
    path = tmp_path / "part.json"
    measure_profile(engine, 1, part=Part(path))
    whole = json.loads(path.read_text())
    ((section, known),) = whole.items()
    assert len(known) == profile.evaluations
    path.write_text(json.dumps({section: dict(list(known.items())[: len(known) // 2])}))
    fresh = Engine(tiny("llama"), samples(20), block_size=10)
    again = measure_profile(fresh, 1, part=Part(path))
    assert json.loads(path.read_text()) == whole
    assert fresh.passes <= len(known) - len(known) // 2 + 1
    assert again.to_dict() == profile.to_dict()
