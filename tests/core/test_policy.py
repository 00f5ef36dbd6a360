"""Validation sentences, arithmetic and the JSON round trip of policies."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from a2sf_core import A2SFError, LayerPolicy, Policy
from a2sf_core.growth import Growth
from a2sf_core.half_life import half_life_of
from a2sf_core.rules.attention import Decay, Window


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rule": 16}, "rule must be a score rule such as"),
        ({"budget": 0}, "budget must be tokens"),
        ({"budget": 0.0}, "budget must be tokens"),
        ({"budget": 1.5}, "budget must be tokens"),
        ({"budget": True}, "budget must be tokens"),
        ({"budget": ()}, "empty tuple"),
        ({"budget": (4, None)}, "for each KV head"),
        ({"recent": -1}, "recent must be an integer"),
        ({"recent": 1.5}, "fraction of the budget"),
        ({"sink": -1}, "sink must be an integer"),
        ({"sink": 0.5}, "sink must be an integer"),
        ({"growth": 0.5}, "growth must be a Growth or None"),
    ],
)
def test_layer_fields_are_checked(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        LayerPolicy(**fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layers": ()}, "layers is empty"),
        ({"layers": (3,)}, r"layers\[0\] must be a LayerPolicy"),
        ({"evict": "never"}, "evict must be"),
        ({"evict": "chunk=0"}, "evict must be"),
        ({"evict": "chunk=x"}, "evict must be"),
        ({"evict": 3}, "evict must be"),
        ({"decode_every": 0}, "decode_every must be"),
        ({"evict": "step", "decode_every": 2}, "evict 'step' evicts at every decoded token"),
        ({"layers": (LayerPolicy(rule=Window(4)),), "evict": "chunk=8"}, "window needs evict 'prefill'"),
    ],
)
def test_policy_fields_are_checked(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        Policy(**{"layers": (LayerPolicy(),), **fields})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"power": 1.5}, "power must be from 0"),
        ({"power": "half"}, "power must be from 0"),
        ({"power": math.nan}, "power must be from 0"),
        ({"shortest": 0}, "the shorter first, not 0 and 900"),
        ({"shortest": 901}, "the shorter first, not 901 and 900"),
        ({"longest": 900.5}, "lengths of prompts in tokens"),
    ],
)
def test_growth_is_checked(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        Growth(**{"power": 0.5, "shortest": 100, "longest": 900, **fields})


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_tokens_grow_with_the_prompt_to_a_power(power: float) -> None:
    layer = LayerPolicy(budget=(0.1, 0.6, 1.0, 7), growth=Growth(power, 100, 900))
    plain = LayerPolicy(budget=(0.1, 0.6, 1.0, 7))
    kept = [layer.head_budget_tokens(n) for n in range(1, 1200)]
    assert all(a <= b for few, more in pairwise(kept) for a, b in zip(few, more, strict=True)), "never fewer"
    assert [kept[n - 1] for n in (900, 1199)] == [plain.head_budget_tokens(n) for n in (900, 1199)]
    for n in (100, 250, 899):
        assert kept[n - 1][0] == math.ceil(0.1 * n * (900 / n) ** (1 - power) - 1e-9)
        assert kept[n - 1][1] == min(n, math.ceil(0.6 * n * (900 / n) ** (1 - power) - 1e-9))
        assert kept[n - 1][2:] == (n, 7), "all, and a number of tokens, stay what they are"
    share = kept[99][0] / 100
    assert kept[49][0] == math.ceil(share * 50 - 1e-9), "shorter ones keep the share of the shortest"
    assert LayerPolicy.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
    assert "growth" not in plain.to_dict()
    with pytest.raises(A2SFError, match=r"growth has an unknown field 'powr'; did you mean 'power'\?"):
        LayerPolicy.from_dict({"budget": 0.1, "growth": {"powr": 0.5, "shortest": 1, "longest": 2}})


def test_half_life_and_alpha() -> None:
    assert Decay(0).alpha == 0
    assert Decay(inf).alpha == 1
    assert Decay(1).alpha == 0.5
    for alpha in (0, 0.001, 0.3, 0.99999, 1):
        assert Decay(half_life_of(alpha)).alpha == pytest.approx(alpha, abs=1e-12)
    with pytest.raises(A2SFError, match="alpha must be"):
        half_life_of(1.1)


@pytest.mark.parametrize(
    ("budget", "n", "kept"),
    [
        (None, 7, 7),
        (0.1, 30, 3),
        (0.1, 31, 4),
        (0.3, 10, 3),
        (0.01, 5, 1),
        (1.0, 9, 9),
        (5, 3, 3),
        (5, 30, 5),
        ((4, 4), 9, 4),
    ],
)
def test_budget_tokens(budget: Any, n: int, kept: int) -> None:
    assert LayerPolicy(budget=budget).budget_tokens(n) == kept


def test_cache_fraction_is_the_mean_over_layers_and_heads() -> None:
    policy = Policy((LayerPolicy(budget=0.5), LayerPolicy(budget=(10, 30)), LayerPolicy()))
    assert policy.cache_fraction(100) == pytest.approx((0.5 + 0.2 + 1) / 3)


def test_heads_by_budget() -> None:
    layer = LayerPolicy(budget=(4, 0.5, 4, 9))
    assert layer.is_ragged
    assert layer.heads_by_budget() == [(4, (0, 2)), (0.5, (1,)), (9, (3,))]
    assert layer.head_budget_tokens(6) == (4, 3, 4, 6)
    with pytest.raises(A2SFError, match="ask head_budget_tokens"):
        layer.budget_tokens(6)
    assert not LayerPolicy(budget=(4, 4)).is_ragged
    assert LayerPolicy(budget=(1, 1.0)).is_ragged, "one token is not everything"


def test_recent_tokens() -> None:
    assert LayerPolicy(recent=0.5).recent_tokens(7) == 3
    assert LayerPolicy(recent=0.3).recent_tokens(10) == 3
    assert LayerPolicy(recent=4).recent_tokens(3) == 3


POLICIES = [
    Policy.full(2),
    Policy.h2o(2, 0.2),
    Policy.tova(2, 64, decode_every=4),
    Policy.snapkv(2, 128, 16),
    Policy.streaming_llm(2, 0.1),
    Policy.a2sf(2, 0.2, 0.3, evict="step"),
    Policy(
        (LayerPolicy(Decay(3.7), (0.1, 20), 0.25, 2), LayerPolicy(Decay(inf), 1.0)), evict="chunk=64", decode_every=3
    ),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_json_round_trip(policy: Policy) -> None:
    text = json.dumps(policy.to_dict(), allow_nan=False)
    assert Policy.from_dict(json.loads(text)) == policy


def test_json_shows_half_life_and_alpha() -> None:
    assert LayerPolicy().to_dict()["rule"] == {"name": "decay", "half_life": "inf", "alpha": 1.0}
    assert LayerPolicy(rule=Decay(1)).to_dict()["rule"]["alpha"] == 0.5


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"budgets": 3}, "did you mean 'budget'"),
        ({"bogus": 3}, "known fields are"),
        ({"rule": {"name": "decay", "half_live": 3}}, "layer 0: rule has an unknown field.*did you mean 'half_life'"),
        ({"rule": {"name": "decay", "half_life": 1, "alpha": 0.6}}, "disagree"),
        ({"rule": {"name": "decay", "half_life": 1, "alpha": "x"}}, "disagree"),
        ({"rule": {"name": "decay", "alpha": 2}}, "alpha must be"),
        ({"rule": {"name": "decay", "half_life": None}}, "half_life must be a number of tokens"),
        ({"rule": {"name": "dekay"}}, "layer 0: rule is 'dekay'; did you mean 'decay'"),
        ({"rule": {}}, "rule is None; the rules are decay, window"),
        ({"rule": "decay"}, "rule must be a JSON object such as"),
        ({"rule": {"name": "value-weighted", "inner": {"name": "windov"}}}, "rule.inner is 'windov'; did you mean"),
        ({"rule": {"name": "value-weighted", "inner": 3}}, "inner must be a rule"),
        ({"budget": 0}, "layer 0: budget must be"),
        (3, "must be a JSON object"),
    ],
)
def test_bad_layer_json_is_refused(data: Any, sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        Policy.from_dict({"layers": [data]})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "must be a JSON object"),
        ({}, "lacks the field 'layers'"),
        ({"layers": "abc"}, "must be a list"),
        ({"layers": [{}], "evicts": 1}, "did you mean 'evict'"),
    ],
)
def test_bad_policy_json_is_refused(data: Any, sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        Policy.from_dict(data)


def test_alpha_alone_suffices() -> None:
    assert LayerPolicy.from_dict({"rule": {"name": "decay", "alpha": 0.5}}) == LayerPolicy(rule=Decay(1))
    with pytest.raises(A2SFError, match="did you mean 'budget'"):
        Policy.uniform(2, budgets=3)


def test_policies_load_without_torch() -> None:
    code = "import sys, a2sf_core.policy, a2sf_core.errors, a2sf_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
