"""Every bundled rule against its slow and obvious version: serving, chunks, static decoding, and one read for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from a2sf_core import A2SFError, LayerPolicy, Policy, attach, decode
from a2sf_core.cache import policy_layers
from a2sf_core.observe import read_prompt
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import Held, ScoreRule
from a2sf_core.rules.catalogue import RULES, read_rule
from a2sf_core.rules.learned import Learned
from a2sf_core.rules.norms import KeyNorm, ValueWeighted
from a2sf_core.rules.position import Position, Random

from . import models, reference
from .test_decode import check, read
from .test_eviction import N_ANSWER, N_PROMPT, close, run, token_splits

SOME: list[ScoreRule] = [
    Decay(8),
    Decay(0),
    Window(4),
    Window(6, pooling=5),
    Position(),
    Random(3),
    KeyNorm(),
    ValueWeighted(Decay(8)),
    ValueWeighted(Window(4)),
    Learned((8.0, 0.0, inf), ((0.7, -0.2, 0.4), (0.1, 0.3, -0.5)), (0.5, 2.0)),
    ValueWeighted(Learned((2.0, inf), ((0.5, 0.5), (1.5, -0.5)), (0.3, -0.3))),
]
each_rule = pytest.mark.parametrize("rule", SOME, ids=str)


def policy_of(rule: ScoreRule, **timing: Any) -> Policy:
    """Layers with one budget, with one per KV head, and with everything."""
    layers = LayerPolicy(rule, 0.3, 2, 1), LayerPolicy(rule, (6, 0.5), 0.25), LayerPolicy(rule)
    return Policy(layers, **timing)


def test_every_rule_in_the_catalogue_is_tried_here() -> None:
    assert {rule.name for rule in SOME} == set(RULES)


@each_rule
@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
def test_serving(llama: Any, rule: ScoreRule, left: int) -> None:
    # A window outlives evictions and is reckoned anew over what is left, which a token-by-token run cannot say.
    policy, ids = policy_of(rule, decode_every=None if rule.holds else 3), models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, left)
    wanted = reference.logits(llama, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)
    close(run(llama, policy, ids, valid, token_splits()), wanted, valid)


@pytest.mark.parametrize("rule", [rule for rule in SOME if not rule.holds], ids=str)
def test_chunks(llama: Any, rule: ScoreRule) -> None:
    policy, ids = policy_of(rule, evict="chunk=8"), models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, 6)
    wanted = reference.logits(llama, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)
    close(run(llama, policy, ids, valid, token_splits()), wanted, valid)


@each_rule
@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
def test_static_buffers(llama: Any, rule: ScoreRule, left: int) -> None:
    check(llama, policy_of(rule, decode_every=3), left)


def test_one_read_serves_all_rules(llama: Any) -> None:
    ids, valid = models.prompt(2, N_PROMPT), models.padding(2, N_PROMPT, 6)
    together = read_prompt(llama, ids, valid, SOME)
    for place, rule in enumerate(SOME):
        alone = read_prompt(llama, ids, valid, [rule])
        for whole, own in zip(together.layers, alone.layers, strict=True):
            token = valid.bool()[:, None].expand(own.scores[0].shape)  # [batch, kv_head, slot]
            torch.testing.assert_close(whole.scores[place][token], own.scores[0][token], atol=1e-6, rtol=1e-5)
            assert (own.scores >= 0).all(), "a rule ranks with numbers that are not negative"
            assert own.scores.dtype == torch.float32
    assert read_prompt(llama, ids, valid).layers[0].scores.shape == (0, 2, 2, N_PROMPT)


@dataclass(frozen=True)
class LastTwo(Window):
    """Holds more queries than it asks for when it ranks."""

    name: ClassVar[str] = "last-two"

    def rank(self, held: Held) -> Tensor:
        return held.attention_of_last(2)


@dataclass(frozen=True)
class SumAndWindow(Window):
    """Needs a sum and queries at once."""

    name: ClassVar[str] = "sum-and-window"

    @property
    def accumulates(self) -> tuple[float, ...]:
        return (2.0,)

    def rank(self, held: Held) -> Tensor:
        return held.accumulated(2.0) + held.attention_of_last(self.queries)


def test_static_buffers_count_the_queries_that_are_asked_for(llama: Any) -> None:
    check(llama, policy_of(LastTwo(8), decode_every=2), left=6)


def test_a_sum_and_a_window_serve_in_the_growing_cache_and_static_buffers_say_why_not(llama: Any) -> None:
    rule, ids = SumAndWindow(4), models.prompt(1, N_PROMPT)
    prompt = read_prompt(llama, ids, rules=[rule, Decay(2), Window(4)])
    for layer in prompt.layers:
        torch.testing.assert_close(layer.scores[0], layer.scores[1] + layer.scores[2])
    policy = policy_of(rule, decode_every=2)
    cache, first = read(llama, policy, ids, torch.ones_like(ids))
    with (
        attach(policy, llama),
        pytest.raises(A2SFError, match=r"sums of attention or.*SumAndWindow.*generate"),
    ):
        decode(llama, cache, first, 4)


def test_a_learned_rule_of_one_half_life_is_that_half_life(llama: Any) -> None:
    ids = models.prompt(2, N_PROMPT)
    prompt = read_prompt(llama, ids, rules=[Decay(8), Learned((8.0,), ((0.5,), (2.0,)), (0.0, 0.0))])
    for layer in prompt.layers:
        assert torch.equal(*layer.scores.argsort(-1))


def test_a_learned_rule_for_other_heads_is_refused(llama: Any) -> None:
    rule = Learned((8.0,), ((1.0,),) * 3, (1.0,) * 3)
    with pytest.raises(A2SFError, match="for 3 KV heads but the layer has 2"):
        read_prompt(llama, models.prompt(1, N_PROMPT), rules=[rule])


def test_a_draw_stays_when_padding_comes_later(llama: Any) -> None:
    """A second turn that is padded in front, as in a batch of conversations, moves no place of the first."""
    (layer,) = policy_layers(Policy((LayerPolicy(Random(3), 0.5),)))
    keys = torch.zeros(2, 2, 20, 8)
    layer.lazy_initialization(keys, keys)
    layer.append(keys, keys, torch.arange(20)[None] >= torch.tensor([[3], [0]]))
    before = Random(3).rank(layer)
    assert torch.equal(before[0, 0, 3:], before[1, 0, :17]), "a padded row draws what it would draw alone"
    layer.append(keys[:, :, :9], keys[:, :, :9], torch.arange(9)[None] >= torch.tensor([[0], [6]]))
    assert torch.equal(Random(3).rank(layer)[..., :20], before)


@dataclass
class Slots:
    """Votes for tokens in any order, as static buffers hold them."""

    positions: Tensor
    votes: Tensor

    def attention_of_last(self, _: int) -> Tensor:
        return self.votes


def test_pooling_goes_by_positions_and_not_by_slots() -> None:
    positions, votes = torch.tensor([[[7, -1, 2, 5, 3]]]), torch.tensor([[[8.0, 100.0, 1.0, 4.0, 2.0]]])
    pooled = Window(4, pooling=3).rank(Slots(positions, votes))  # type: ignore[arg-type]
    # In order: 2 has 1, 3 has 2, 5 has 4, 7 has 8.
    wanted = torch.tensor([12, 3, 14, 7]) / 3  # of 7, 2, 5, 3
    torch.testing.assert_close(pooled[0, 0, [0, 2, 3, 4]], wanted)


def test_random_draws_differ_by_place_and_seed_and_are_even() -> None:
    slots = torch.arange(4000).expand(1, 1, -1)

    def drawn(seed: int) -> Tensor:
        held = type("Held", (), {"positions": slots, "left_padding": torch.zeros(1, dtype=torch.long)})()
        return Random(seed).rank(held).flatten().double()  # type: ignore[arg-type]

    first, second = drawn(0), drawn(1)
    assert first.unique().numel() == 4000
    for draws in (first, second):
        counts = draws.histc(20, 0, 1)
        assert ((counts - 200) ** 2 / 200).sum() < 43.8, "chi squared with 19 degrees of freedom, one in a thousand"
        assert abs(float(torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1])) < 0.06
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06


@each_rule
def test_json_round_trip(rule: ScoreRule) -> None:
    text = json.dumps(rule.to_dict(), allow_nan=False)
    assert read_rule(json.loads(text), "rule") == rule


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Decay(-1), "half_life must be a number of tokens"),
        (lambda: Decay(float("nan")), "half_life must be a number of tokens"),
        (lambda: Decay(10**400), "half_life must be a number of tokens"),
        (lambda: Decay(True), "half_life must be a number of tokens"),
        (lambda: Decay("8"), "half_life must be a number of tokens"),
        (lambda: Window(0), "queries must be an integer of at least 1"),
        (lambda: Window(4, pooling=2), "pooling must be an odd integer"),
        (lambda: Random(-1), "seed must be an integer from 0"),
        (lambda: ValueWeighted(3), "inner must be a rule"),
        (lambda: Learned((), (), ()), "half_lives must be a list with at least one entry"),
        (lambda: Learned((2.0, 2.0), ((1.0, 1.0),), (1.0,)), "half_lives has one twice"),
        (lambda: Learned((2.0,), ((1.0, 1.0),), (1.0,)), r"powers\[0\] must be 1 numbers"),
        (lambda: Learned((2.0,), ((1.0,), (float("nan"),)), (1.0, 1.0)), r"powers\[1\] must be 1 numbers"),
        (lambda: Learned((2.0,), ((1.0,),), (1.0, 2.0)), "value_powers must be 1 numbers"),
        (lambda: read_rule({"name": "learned", "half_lives": [1]}, "rule"), "powers"),
        (lambda: ValueWeighted(ValueWeighted()), "inner is weighted by values already"),
        (lambda: read_rule({"name": "decay", "half_life": 1, "alpha": 10**400}, "rule"), "disagree"),
        (lambda: read_rule({"name": "decay", "half_life": {"name": "dekay"}}, "rule"), "rule.half_life is 'dekay'"),
        (lambda: read_rule({"name": "window", "query": 3}, "rule"), "did you mean 'queries'"),
        (lambda: read_rule({"name": "keynorm"}, "rule"), "rule is 'keynorm'; did you mean 'key-norm'"),
        (lambda: read_rule({"name": ["decay"]}, "rule"), r"rule is \['decay'\]; did you mean"),
        (lambda: read_rule({"name": "decay", "half_life": [1]}, "rule"), "half_life must be a number of tokens"),
        (lambda: read_rule([], "rule"), "rule must be a JSON object"),
    ],
)
def test_bad_rules_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        make()


def test_the_half_life_is_a_float_whatever_it_was_given_as() -> None:
    assert Decay(8) == Decay(8.0)
    assert Decay() == Decay(inf)
