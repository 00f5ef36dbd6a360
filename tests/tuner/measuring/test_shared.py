"""Cut before the question: several questions on one context, read once, as the attached model answers them alone."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core import LayerPolicy, Policy, attach, read_context
from a2sf_core.rules.attention import Decay
from a2sf_core.switch import cache_argument
from tests.core import models
from tests.tuner.models import VOCABULARY, holder_of, tiny
from tests.tuner.models import samples as unrelated
from tuner.inputs.encoding import Encoded
from tuner.measuring.choosing import log_likelihoods
from tuner.measuring.engine import Engine
from tuner.measuring.plan import plan
from tuner.measuring.texts import Ends
from tuner.measuring.writing import Writer

LAYERS = (
    LayerPolicy(Decay(0.0), 0.2, 0.5, 1),
    LayerPolicy(Decay(8.0), 7, 2, 0),
    LayerPolicy(Decay(math.inf), None),
)
POLICIES = [Policy(LAYERS), Policy.h2o(3, 0.4), Policy.full(3)]
NEVER = Ends(6, frozenset())


def asked(contexts: int = 3, questions: int = 4) -> list[Encoded]:
    """Random contexts of 12 to 50 tokens with questions of 0 to 7 and answers of 1 to 6, in mixed order."""
    rng = random.Random(3)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, VOCABULARY) for _ in range(n))

    made = []
    for context in range(contexts):
        prompt = ids(rng.randint(12, 50))
        made += [
            Encoded(f"{context}-{i}", prompt, ids(rng.randint(1, 6)), "", False, str(context),
                    question_ids=ids(rng.randint(0 if contexts > 2 else 1, 7)))
            for i in range(questions)
        ]  # fmt: skip
    rng.shuffle(made)
    return made


@torch.no_grad()
def served(model: Any, sample: Encoded, policy: Policy, answer: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities `[token, vocab]` of an answer, with the attached model alone: context, question, each token."""
    name = cache_argument(model)
    with attach(policy, model):
        ids = torch.tensor([sample.prompt_ids])
        logits = [model(ids).logits[0, -1]]
        cache = read_context(model, ids)
        pieces = [sample.question_ids] if sample.question_ids else []
        for piece in [*pieces, *([token] for token in answer[:-1])]:
            logits.append(model(torch.tensor([list(piece)]), **{name: cache}).logits[0, -1])
    return torch.stack(logits[len(pieces) :]).log_softmax(-1)


def nll(log_probs: torch.Tensor, answer: tuple[int, ...]) -> float:
    return -float(log_probs.gather(1, torch.tensor(answer)[:, None]).mean())


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("policy", POLICIES[:2], ids=["layers", "h2o"])
def test_equals_the_attached_model(family: str, policy: Policy) -> None:
    model, data = models.build(family), asked()
    engine = Engine(model, data, batch_tokens=150, block_size=4)
    ours = engine.evaluate(policy)
    alone = [nll(served(model, sample, policy, sample.answer_ids), sample.answer_ids) for sample in data]
    assert np.abs(ours.nll - alone).max() < 1e-4
    full = [served(model, sample, POLICIES[2], sample.answer_ids).double() for sample in data]
    kept = [served(model, sample, policy, sample.answer_ids).double() for sample in data]
    kl = [float((a.exp() * (a - b)).sum(-1).mean()) for a, b in zip(full, kept, strict=True)]
    assert np.abs(ours.kl - kl).max() < 1e-4
    assert np.mean(kl) > 0.001
    direct = engine.evaluate_directly(policy)
    for field in ("nll", "kl", "accuracy", "changed", "cache_fraction"):
        assert np.abs(getattr(ours, field) - getattr(direct, field)).max() < 1e-4, field


def test_heads_with_budgets_of_their_own() -> None:
    model, data = tiny("llama"), asked()
    policy = Policy(tuple(LayerPolicy(Decay(8.0), budget, 2, 1) for budget in ((0.2, 0.7), (9, 3), (0.9, 0.4))))
    ours = Engine(model, data).evaluate(policy)
    alone = [nll(served(model, sample, policy, sample.answer_ids), sample.answer_ids) for sample in data]
    assert np.abs(ours.nll - alone).max() < 1e-4


@pytest.mark.parametrize("evict", ["chunk=8", "step"])
def test_policies_that_evict_while_the_context_is_read(evict: str) -> None:
    model, data = tiny("llama"), asked()
    policy = Policy.uniform(3, evict=evict, rule=Decay(4.0), budget=8)
    losses = Engine(model, data).evaluate(policy)
    alone = [nll(served(model, sample, policy, sample.answer_ids), sample.answer_ids) for sample in data]
    assert np.abs(losses.nll - np.array(alone)).max() < 1e-4


def test_with_the_full_cache_it_does_not_matter_where_the_cut_is() -> None:
    model, data = tiny("llama"), asked()
    whole = [replace(sample, prompt_ids=sample.whole_prompt, question_ids=()) for sample in data]
    early, late = (Engine(model, each, ends=NEVER).evaluate(POLICIES[2]) for each in (data, whole))
    assert np.abs(early.nll - late.nll).max() < 1e-5
    assert np.abs(early.kl).max() < 1e-6


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_texts_and_likelihoods_are_those_of_the_attached_model(kind: str) -> None:
    model, data = tiny(kind), asked()
    for ends in (NEVER, None):
        engine = Engine(model, data, block_size=5, ends=ends)
        writer = Writer(engine, NEVER)
        for policy in POLICIES:
            found = writer.texts(policy, range(len(data)))
            for row, sample in enumerate(data):
                steps = served(model, sample, policy, found[row])
                assert tuple(steps.argmax(-1).tolist()) == found[row]
                assert len(found[row]) == NEVER.most
            sums = log_likelihoods(engine, policy, [sample.answer_ids for sample in data])
            for sample, total in zip(data, sums, strict=True):
                log_probs = served(model, sample, policy, sample.answer_ids)
                assert total == pytest.approx(-nll(log_probs, sample.answer_ids) * len(sample.answer_ids), abs=1e-4)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_context_is_read_and_held_once(memory: int | None) -> None:
    model, data = tiny("llama"), asked(contexts=2, questions=6)
    told: list[int] = []
    reads: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: reads.append(kwargs["attention_mask"].shape[1]) or None, with_kwargs=True
    )
    engine = Engine(model, data, block_size=4, memory=memory, progress=lambda done, _: told.append(done))
    hook.remove()
    lengths = {sample.context_key: len(sample.prompt_ids) for sample in data}
    block = [batch for index in range(engine.n_blocks) for batch in holder_of(engine).load(index)]
    assert sum(batch.layers[0].keys.shape[0] for batch in block) == 2
    assert max(told) == 12
    if memory is None:
        assert sorted(n for n in reads if n in lengths.values()) == sorted(lengths.values())
        copies = Engine(model, [replace(each, prompt_ids=(i + 5, *each.prompt_ids[1:])) for i, each in enumerate(data)])
        held = [sum(b.nbytes for i in range(e.n_blocks) for b in holder_of(e).load(i)) for e in (engine, copies)]
        assert held[0] < held[1] / 3


def test_the_plan_keeps_a_context_together_and_is_the_old_one_without_any() -> None:
    prompts = [sample.prompt_ids for sample in asked(contexts=9, questions=5)]
    for batch_tokens, block_size in ((60, 7), (10_000, 3), (10_000, 1000)):
        blocks = plan(prompts, batch_tokens, block_size, 0)
        assert sorted(row for block in blocks for batch in block for row in batch) == list(range(len(prompts)))
        homes = [
            (prompts[row], (i, j)) for i, block in enumerate(blocks) for j, batch in enumerate(block) for row in batch
        ]
        assert len(set(homes)) == 9
    alone = [sample.prompt_ids for sample in unrelated(11)]
    shuffled = np.random.default_rng(5).permutation(11)
    assert [sorted(chain(*block)) for block in plan(alone, 1000, 3, 5)] == [
        sorted(block.tolist()) for block in np.array_split(shuffled, 4)
    ]


def test_batches_are_split_where_the_padding_of_answers_costs_more_than_a_batch_does() -> None:
    prompts = [(1, place) for place in range(9)] + [(1, 8)]
    assert plan(prompts, 10_000, 100, 0, [20] * 10) == plan(prompts, 10_000, 100, 0), "nothing is padded"
    (uneven,) = plan(prompts, 10_000, 100, 0, [100, 5, 7, 90, 6, 8, 95, 7, 6, 92])
    assert sorted(map(sorted, uneven)) == [[0, 3, 6, 8, 9], [1, 2, 4, 5, 7]], "8 and 9 are one prompt, read once"
    (block,) = plan(prompts, 10_000, 100, 0, [100, 97, 101, 98, 98, 101, 99, 97, 98, 99])
    assert len(block) == 1, "a few tokens are not worth a batch more"


def test_more_questions_than_a_batch_may_hold_are_shared_out() -> None:
    prompts = [(1, 2, 3)] * 40 + [(1, 2)]
    (block,) = plan(prompts, 30, 1000, 0)
    assert max(map(len, block)) <= 17
    assert sorted(chain(*block)) == list(range(41))
