"""Hypervolume, racing and the profile: the rules that decide where trials go."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from a2sf_core import A2SFError, Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses, Seen
from tuner.search.dimensions import Options, Range
from tuner.search.hypervolume import front, hypervolume, stood_still
from tuner.search.profile import BUDGETS, NEGLIGIBLE, Profile, Recency
from tuner.search.profiling import MOST_REFINED, PROFILE_HALF_LIVES, RECENTS, START, cut_alone, measure_profile
from tuner.search.racing import Race
from tuner.search.records import Value
from tuner.search.space import Space

# ---- hypervolume ----------------------------------------------------------------------------------------


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


# ---- racing ---------------------------------------------------------------------------------------------


def seen(nll: np.ndarray, rows: np.ndarray) -> Seen:
    return Seen(rows, Losses(nll[rows], *[np.zeros(len(rows))] * 4))


def test_only_rivals_with_as_little_memory_count() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(1, 0.3, 64), rng.normal(2, 0.3, 64)
    race = Race()
    race.finish(0.3, good)
    rows = np.arange(16)
    assert race.is_lost(0.3, seen(bad, rows))
    assert not race.is_lost(0.29, seen(bad, rows))
    assert not race.is_lost(0.3, seen(good - 0.01, rows))


def test_a_better_trial_is_hardly_ever_stopped() -> None:
    """The rule promises 0.5 % per look at the hardest, which are equal trials; with three looks at most about 1.5 %."""
    rng = np.random.default_rng(1)
    stopped = 0
    for _ in range(400):
        common = rng.exponential(1.0, 64)
        race = Race()
        rival, new = (common + rng.normal(0, 0.5, 64) for _ in range(2))
        race.finish(0.2, rival)
        stopped += new.mean() < rival.mean() and any(race.is_lost(0.2, seen(new, np.arange(n))) for n in (16, 32, 48))
    assert stopped / 400 < 0.02


# ---- profile --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny("llama"), samples(20), block_size=10)


@pytest.fixture(scope="module")
def profile(engine: Engine) -> Profile:
    return measure_profile(engine, 1)


def loss_alone(engine: Engine, layer: int, heads: tuple[int, ...], recency: Recency, budget: float) -> float:
    full = engine.evaluate_blocks(Policy.full(engine.n_layers), 1).losses.nll
    policy = cut_alone(engine, layer, heads, recency, budget)
    return float((engine.evaluate_blocks(policy, 1).losses.nll - full).mean())


def test_the_profile_says_what_cutting_one_head_alone_costs(engine: Engine, profile: Profile) -> None:
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


def test_the_rule_of_a_layer_is_the_best_of_its_row_and_column(engine: Engine, profile: Profile) -> None:
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


def test_a_profile_is_kept_as_json(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "profile.json"
    profile.save(path)
    again = Profile.load(path)
    assert np.array_equal(again.head_loss, profile.head_loss)
    assert np.array_equal(again.half_life, profile.half_life)
    assert np.array_equal(again.recent, profile.recent)
    path.write_text("{}")
    with pytest.raises(A2SFError, match=r"profile\.json is not a sensitivity profile.*delete it"):
        Profile.load(path)


# ---- space ----------------------------------------------------------------------------------------------


def random_profile(rng: np.random.Generator, n_layers: int, n_heads: int) -> Profile:
    def curves(*shape: int) -> np.ndarray:
        return np.sort(rng.exponential(0.1, (*shape, len(BUDGETS))))[..., ::-1] * (rng.random((*shape, 1)) < 0.5)

    shape = n_layers, len(BUDGETS)
    half_life, recent = rng.choice(PROFILE_HALF_LIVES, shape), rng.choice(RECENTS, shape)
    return Profile(curves(n_layers), half_life, recent, curves(n_layers, n_heads), 16, 0)


def drawn(rng: np.random.Generator, r: Range | Options) -> Value:
    if isinstance(r, Options):
        return str(rng.choice(r.names))
    return int(rng.integers(r.low, r.high + 1)) if r.whole else float(rng.uniform(r.low, r.high))


@pytest.mark.parametrize("family", ["uniform", "slope", "bump", "profile", "groups", "free"])
@pytest.mark.parametrize("per_head", [False, True])
def test_every_point_of_every_family_is_a_valid_policy(family: str, per_head: bool) -> None:
    rng = np.random.default_rng(5)
    for n_layers, n_heads in ((1, 1), (4, 2), (32, 8)):
        space = Space(family, per_head, n_layers, random_profile(rng, n_layers, n_heads))
        for _ in range(30):
            params = {name: drawn(rng, r) for name, r in space.ranges.items()}
            policy = space.policy(params)
            assert Policy.from_dict(policy.to_dict()) == policy
            budgets = [np.mean(layer.budget) for layer in policy.layers]
            assert np.mean(budgets) == pytest.approx(params["budget"], abs=2e-3)
            if not per_head:
                assert not any(isinstance(layer.budget, tuple) for layer in policy.layers)
            if family == "uniform" and not per_head:
                assert len(set(policy.layers)) == 1


def test_the_seed_is_the_profile_itself() -> None:
    rng = np.random.default_rng(2)
    found = random_profile(rng, 4, 2)
    space = Space("groups", True, 4, found)
    policy = space.policy(space.seed(0.2))
    wanted = found.budgets(0.2)
    for layer, row in zip(policy.layers, wanted, strict=True):
        assert np.broadcast_to(layer.budget, 2) == pytest.approx(row, abs=1e-4)
    assert [Recency(layer.rule.half_life, layer.recent) for layer in policy.layers] == found.recencies(wanted.mean(-1))


def test_points_of_another_space_are_made_to_fit() -> None:
    rng = np.random.default_rng(3)
    target = Space("slope", False, 4)
    other = Space("groups", True, 32, random_profile(rng, 32, 8))
    point = target.complete({**other.seed(0.2), "slope": 99.0})
    assert set(point) == set(target.ranges)
    assert point["slope"] == target.ranges["slope"].high
    assert math.isclose(float(np.mean([layer.budget for layer in target.policy(point).layers])), 0.2, abs_tol=1e-3)
