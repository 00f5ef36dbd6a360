"""The space: every point is a policy, the profile is one of them, points of other spaces are made to fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from a2sf_core.growth import Growth
from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.choices import LEARNED, RULES
from tuner.measuring.bank import BANK
from tuner.measuring.engine import Engine
from tuner.measuring.losses import share_kept, share_of_all
from tuner.search.baselines import BASELINES, baseline_trials
from tuner.search.cut_alone import BUDGETS, CutAlone
from tuner.search.dimensions import Dimensions, Options, Range
from tuner.search.profile import Recency
from tuner.search.profiling import PROFILE_HALF_LIVES, RECENTS
from tuner.search.reconstruction import Reconstruction, kept_shares
from tuner.search.records import Value
from tuner.search.rules import SEARCHED
from tuner.search.space import FIRST_FALLOFF, Space


def random_profile(rng: np.random.Generator, n_layers: int, n_heads: int) -> CutAlone:
    def curves(*shape: int) -> np.ndarray:
        return np.sort(rng.exponential(0.1, (*shape, len(BUDGETS))))[..., ::-1] * (rng.random((*shape, 1)) < 0.5)

    shape = n_layers, len(BUDGETS)
    half_life, recent = rng.choice(PROFILE_HALF_LIVES, shape), rng.choice(RECENTS, shape)
    return CutAlone(curves(n_layers), half_life, recent, curves(n_layers, n_heads), 16, 0)


def drawn(rng: np.random.Generator, r: Range | Options) -> Value:
    if isinstance(r, Options):
        return str(rng.choice(r.names))
    return int(rng.integers(r.low, r.high + 1)) if r.whole else float(rng.uniform(r.low, r.high))


@pytest.mark.parametrize("family", ["uniform", "slope", "bump", "profile", "groups", "free"])
@pytest.mark.parametrize("per_head", [False, True])
def test_every_point_of_every_family_is_a_valid_policy(family: str, per_head: bool) -> None:
    rng = np.random.default_rng(5)
    for n_layers, n_heads in ((1, 1), (4, 2), (32, 8)):
        lengths = tuple(rng.integers(50, 2000, int(rng.integers(0, 20))).tolist())
        space = Space(family, per_head, n_layers, random_profile(rng, n_layers, n_heads), lengths=lengths)
        for _ in range(30):
            params = {name: drawn(rng, r) for name, r in space.ranges.items()}
            policy = space.policy(params)
            assert Policy.from_dict(policy.to_dict()) == policy
            budgets = np.array([np.broadcast_to(np.array(layer.budget), n_heads) for layer in policy.layers])
            growth = policy.layers[0].growth
            kept = budgets.mean()
            if growth:
                times = np.array([growth.times(n) for n in lengths])  # [prompt]
                kept = share_of_all(np.minimum(1, budgets.ravel() * times[:, None]).mean(1), lengths)
            assert kept == pytest.approx(params["budget"], abs=2e-3)
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
    assert target.complete({"rule": "window", "budget": 0.3})["rule"] == "window"
    assert target.complete({"rule": "key-norm", "budget": 0.3})["rule"] == "decay", "a rule that is not searched here"
    assert math.isclose(float(np.mean([layer.budget for layer in target.policy(point).layers])), 0.2, abs_tol=1e-3)


def test_a_space_that_needs_a_profile_says_so() -> None:
    with pytest.raises(ValueError, match="the family 'groups' is shaped by a profile; measure one"):
        Space("groups", False, 4).seed(0.2)
    assert len(Space("bump", False, 4).enqueued()) == len(baseline_trials(4, ("decay", "window"))), (
        "no seeds without a profile"
    )


def test_what_is_searched_is_known_before_the_profile_and_does_not_depend_on_it() -> None:
    dimensions = Dimensions("groups", True, 4)
    space = Space.of(dimensions, random_profile(np.random.default_rng(0), 4, 2))
    assert (space.ranges, space.digest()) == (dimensions.ranges, dimensions.digest())
    others = [Dimensions("groups", False, 4), Dimensions("free", True, 4), Dimensions("groups", True, 5)]
    others.append(Dimensions("groups", True, 4, rules=("decay",)))
    assert len({each.digest() for each in (dimensions, *others)}) == 5


def test_prompts_of_all_lengths_may_keep_shares_of_their_own_and_the_same_in_all() -> None:
    lengths = (*range(100, 300, 10), *range(500, 900, 10))
    profile = random_profile(np.random.default_rng(0), 4, 2)
    alike, unlike = (Space("groups", True, 4, profile, lengths=each) for each in ((500, 520, 600), lengths))
    assert set(unlike.ranges) - set(alike.ranges) == {"falloff"}
    point = unlike.complete(unlike.seed(0.1))
    assert point["falloff"] == FIRST_FALLOFF
    plain, growing = (unlike.policy(point | {"falloff": falloff}) for falloff in (0.0, 0.6))
    assert plain == alike.policy(alike.complete(alike.seed(0.1)))
    assert {layer.growth for layer in plain.layers} == {None}
    assert {layer.growth for layer in growing.layers} == {Growth(0.4, 130, 860)}
    kept = [share_kept(policy, lengths) for policy in (plain, growing)]
    assert kept == pytest.approx([0.1, 0.1], abs=0.01)
    most = unlike.policy(point | {"falloff": 0.8, "budget": 0.7})
    assert share_kept(most, lengths) == pytest.approx(0.7, abs=0.01)
    assert growing.cache_fraction(150) > 0.2 > plain.cache_fraction(150)
    assert growing.cache_fraction(800) < 0.1
    labels = [trial.label for trial in unlike.enqueued()]
    assert [label for label in labels if "the same share" in label] == [
        "seed profile, window 0.12, the same share of all", "seed profile, window 0.27, the same share of all",
    ]  # fmt: skip


def test_the_bank_holds_what_the_space_and_the_baselines_can_ask_for() -> None:
    every_rule = Space("uniform", False, 3, rules=RULES)
    assert {*SEARCHED, LEARNED} == set(RULES)
    assert set(BANK) < set(every_rule.bank)
    assert set(Space("uniform", False, 3).bank) == {*BANK, *(baseline.rule for baseline in BASELINES)}
    engine = Engine(tiny("llama"), samples(3), bank=every_rule.bank)
    for rule in SEARCHED:
        params = every_rule.complete({"rule": rule, "budget": 0.4, "half_life_place": 7, "recent": 0.2})
        policy = every_rule.policy(params)
        assert rule == policy.layers[0].rule.name
        gathered, really_run = engine.evaluate(policy), engine.evaluate_directly(policy)
        assert gathered.nll == pytest.approx(really_run.nll, abs=1e-4)
    for baseline in BASELINES:
        gathered, really_run = (run(baseline.policy(0.3, 3)) for run in (engine.evaluate, engine.evaluate_directly))
        assert gathered.nll == pytest.approx(really_run.nll, abs=1e-4), baseline.name


@pytest.mark.parametrize("floor", [0.0, 0.05, 1.0])
def test_the_profile_of_reconstruction_shapes_a_space_too(floor: float) -> None:
    """Its own policy is a point, with recent tokens in proportion to each head's budget under every rule."""
    kept = kept_shares(np.random.default_rng(0).random((5, 2, 60)) ** 4)[None]
    profile = Reconstruction(kept, floor)
    space = Space("groups", True, 5, profile)
    for rule in space.rules:
        policy = space.policy(space.complete(space.seed(0.2) | {"rule": rule}))
        shares = np.array([np.broadcast_to(np.array(layer.budget), 2) for layer in policy.layers])
        assert shares == pytest.approx(profile.budgets(0.2), abs=1e-3)
        ragged = [layer for layer in policy.layers if layer.is_ragged]
        assert {layer.recent for layer in ragged} <= {0.25}
        assert {layer.sink for layer in policy.layers} == {4}
        assert bool(ragged) is (floor < 1)
    assert space.enqueued()[0].label == "seed profile, decay 0.05"
