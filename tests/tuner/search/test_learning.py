"""Learning to forget: targets and fit against slow and obvious versions, and rules that serve as they were measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from a2sf_core import A2SFError, LayerPolicy, Policy
from a2sf_core.rules.learned import Learned
from tests.core import models
from tests.tuner.models import holder_of, samples, tiny
from tuner.choices import LEARNED
from tuner.measuring.answers import answering
from tuner.measuring.batch import _Sums
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends
from tuner.measuring.token_losses import token_losses
from tuner.search.learned_file import FEWEST, LEARNED_FILE, Lesson, kept_lesson, learn
from tuner.search.learning import LEARNED_FROM, _Fit, learned_rules, what_losing_costs, worth_to_texts
from tuner.search.space import Space
from tuner.watch import Silent, silent

ENDS = Ends(5, frozenset())


def engine_of(model: Any, count: int, **how: Any) -> Engine:
    return Engine(model, samples(count), block_size=6, ends=ENDS, learn_from=LEARNED_FROM, **how)


@pytest.fixture(scope="module")
def rules() -> tuple[Learned, ...]:
    return learned_rules(engine_of(tiny("llama"), 14), range(14), silent)


def test_what_losing_a_key_costs_is_what_the_output_moves() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    bias = torch.zeros(2, 1, 4, 7)
    bias[1, :, :, 5:] = float("-inf")

    def output(hidden: torch.Tensor) -> torch.Tensor:
        return (query @ key.transpose(-1, -2) * 0.3 + bias + hidden).softmax(-1) @ value

    costs = what_losing_costs(query, key, value, 0.3, bias)
    for lost in range(7):
        hidden = torch.zeros(7)
        hidden[lost] = float("-inf")
        moved = (output(torch.zeros(7)) - output(hidden)).norm(dim=-1)
        torch.testing.assert_close(costs[..., lost], moved, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("question", [(), (5, 9, 14)], ids=["cut: prompt", "cut: context"])
def test_padding_and_batches_do_not_change_what_tokens_are_worth(question: tuple[int, ...]) -> None:
    model = tiny("llama")
    data = [replace(sample, question_ids=question[: 1 + index % 3]) for index, sample in enumerate(samples(6))]
    together = Engine(model, data, block_size=6, ends=ENDS, learn_from=LEARNED_FROM)
    ((_, block),) = holder_of(together).blocks()
    with answering(model):
        for batch in block:
            worth = worth_to_texts(holder_of(together), batch)
            for place, row in enumerate(batch.samples):
                alone = Engine(model, [data[row]], ends=ENDS, learn_from=LEARNED_FROM)
                ((_, (single,)),) = holder_of(alone).blocks()
                n = len(data[row].prompt_ids)
                for ours, own in zip(worth, worth_to_texts(holder_of(alone), single), strict=True):
                    torch.testing.assert_close(ours[place, :, :n], own[0], atol=1e-4, rtol=1e-2)  # 1 - p cancels


def test_the_fit_is_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = [(torch.randn(2, 3, 40, generator=generator), torch.randn(2, 40, generator=generator)) for _ in range(5)]
    fit = _Fit(1, 2, 3)
    for signals, target in prompts:
        fit.add(0, signals, target)
    for head in range(2):
        x = np.concatenate([(s[head] - s[head].mean(-1, keepdim=True)).T.numpy() for s, _ in prompts])
        y = np.concatenate([(t[head] - t[head].mean()).numpy() for _, t in prompts])
        size = np.sqrt((x**2).sum(0) / 40)
        ridge = Ridge(0.01 * 40, fit_intercept=False).fit(x / size, y)
        assert fit.solve()[0, head] == pytest.approx(ridge.coef_ / size, rel=1e-3, abs=1e-5)


def test_rules_are_learned_from_the_samples_named_alone(rules: tuple[Learned, ...]) -> None:
    some = learned_rules(engine_of(tiny("llama"), 14), range(5), silent)
    first_five = learned_rules(engine_of(tiny("llama"), 5), range(5), silent)
    for ours, alone in zip(some, first_five, strict=True):
        assert np.array(ours.powers) == pytest.approx(np.array(alone.powers), abs=2e-3)
    assert some != rules
    assert [len(rule.powers) for rule in rules] == [2, 2, 2]


def test_what_is_learned_in_nats_ranks_by_what_losing_tokens_costs_in_nats(rules: tuple[Learned, ...]) -> None:
    engine = engine_of(tiny("llama"), 14)
    in_nats, of_five = (learned_rules(engine, rows, silent, drawn=5) for rows in (range(14), range(5)))
    assert in_nats != of_five
    fits: dict[str, list[float]] = {"in nats": [], "by movement": []}
    holder = holder_of(engine)
    with answering(holder.model):
        for batch in (batch for _, block in holder.blocks() for batch in block):
            for place, row in enumerate(batch.samples):
                own = slice(place, place + 1), slice(None), slice(-int(batch.n_tokens[place]), None)
                losses = token_losses(holder.reader, batch, place, torch.Generator().manual_seed(5 + row))
                for layer, loss, *both in zip(batch.layers, losses, in_nats, rules, strict=True):
                    held: Any = _Sums(layer.sums[(slice(None), *own)], layer.values[own], LEARNED_FROM)
                    for fit, rule in zip(fits.values(), both, strict=True):
                        ranks = rule.rank(held)[0]  # [kv_head, token]
                        fit += [float(spearmanr(ranks[head, 4:], loss[head, 4:])[0]) for head in range(2)]
    assert np.mean(fits["in nats"]) > np.mean(fits["by movement"]) > 0


@pytest.mark.parametrize("memory", [None, 1], ids=["held", "read again"])
@pytest.mark.parametrize(
    ("budget", "by_prompt"), [(0.3, False), ((0.2, 0.5), False), ((0.2, 0.5), True)],
    ids=["alike", "per head", "by prompt"],
)  # fmt: skip
def test_gathered_equals_attached(rules: tuple[Learned, ...], budget: Any, by_prompt: bool, memory: int | None) -> None:
    if by_prompt:
        rules = learned_rules(engine_of(tiny("llama"), 7), range(7), silent, drawn=3)
    policy = Policy(tuple(LayerPolicy(rule, budget, 0.25, 2) for rule in rules), by_prompt=by_prompt)
    later = engine_of(tiny("llama"), 7, memory=memory)
    later.learn(rules)
    known = Engine(tiny("llama"), samples(7), ends=ENDS, own=rules)
    really_run = known.evaluate_directly(policy)
    for engine in (later, known):
        found = engine.evaluate(policy)
        for name in ("nll", "kl", "own_kl", "cache_fraction"):
            assert np.abs(getattr(found, name) - getattr(really_run, name)).max() < 1e-4, name


@pytest.mark.parametrize("by_prompt", [False, True], ids=["fixed", "by prompt"])
@pytest.mark.parametrize("family", models.FAMILIES)
def test_gathered_equals_attached_in_every_family(family: str, by_prompt: bool) -> None:
    model = models.build(family)
    learner = engine_of(model, 6)
    learned = learned_rules(learner, range(6), silent, drawn=3 if by_prompt else None)
    learner.learn(learned)
    budget = (0.4,) * len(learned[0].powers) if by_prompt else 0.4
    policy = Policy(tuple(LayerPolicy(rule, budget, 0.25, 1) for rule in learned), by_prompt=by_prompt)
    found, really_run = learner.evaluate(policy), learner.evaluate_directly(policy)
    for name in ("nll", "kl", "own_kl", "cache_fraction"):
        assert np.abs(getattr(found, name) - getattr(really_run, name)).max() < 1e-4, name
    assert found.kl.mean() > 0.001
    if by_prompt:
        fixed = learner.evaluate(replace(policy, by_prompt=False))
        assert np.allclose(found.cache_fraction, fixed.cache_fraction)  # the same total
        assert np.abs(found.kl - fixed.kl).max() > 1e-3  # of other tokens


def test_a_lesson_is_judged_on_samples_that_it_has_not_seen_and_offered_where_it_wins(tmp_path: Path) -> None:
    space = Space("uniform", False, 3)
    engine = engine_of(tiny("llama"), 2 * FEWEST)
    found = kept_lesson(tmp_path, engine, space, 0, Silent())
    assert "search samples that it was not learned from" in found.why
    assert found.why.startswith("Learned forgetting is left out" if not found.rules else "Learned forgetting: KL")
    assert Lesson.load(tmp_path / LEARNED_FILE, 3, 2) == found
    richer = Space.of(space, None, learned_rules(engine_of(tiny("llama"), 14), range(14), silent))
    assert (LEARNED in space.offered, LEARNED in richer.offered) == (False, True)
    policy = richer.policy(richer.complete({"rule": LEARNED, "budget": 0.3, "recent": 0.2}))
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_a_lesson_that_another_worker_left_out_is_taken_as_it_is(tmp_path: Path) -> None:
    Lesson((), "Learned forgetting is left out: ...").save(tmp_path / LEARNED_FILE)
    engine, never_to_learn = engine_of(tiny("llama"), 7), Engine(tiny("llama"), samples(7), ends=ENDS)
    assert kept_lesson(tmp_path, engine, Space("uniform", False, 3), 0, Silent()).rules == ()
    policy = Policy.h2o(3, 0.3)
    assert np.array_equal(engine.evaluate(policy).kl, never_to_learn.evaluate(policy).kl)


def test_few_samples_teach_nothing() -> None:
    engine = engine_of(tiny("llama"), 4)
    assert learn(engine, Space("uniform", False, 3), 0, Silent()) == Lesson(
        (), "Forgetting was not learned: that takes 12 search samples, and there are 4."
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not a list of learned rules"),
        ("[]", "not a list of learned rules"),
        ('{"why": "", "rules": [{"name": "learnd"}]}', "did you mean 'learned'"),
        ('{"why": "", "rules": [{"name": "decay"}]}', "not of a model with 3 layers and 2 KV heads"),
    ],
)
def test_a_file_that_is_no_lesson_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / LEARNED_FILE).write_text(text)
    with pytest.raises(A2SFError, match=sentence):
        Lesson.load(tmp_path / LEARNED_FILE, 3, 2)
