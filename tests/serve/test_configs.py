"""Several configs behind one engine: a new one, a canary's share, a shadow; each text is its own policy's."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
import torch

from a2sf_core import A2SFError, Policy, attach
from a2sf_core.serve.cost import CacheCost
from a2sf_core.serve.engine import Engine
from a2sf_core.serve.job import Ended, Event, Job
from a2sf_core.serve.sampling import Sampling
from a2sf_core.serve.served import CANARY, SHADOW, STABLE, Configs, Served

from .conftest import POLICY, TINY
from .offline import written, written_text
from .test_engine import MOST, answer, asked, value

HOT = Sampling(1.5, 1.0, 3)


def engine_of(reference: tuple[Any, Any], configs: Configs, **options: Any) -> Engine:
    return Engine(*reference, configs, **{"ends": [2], **options})


def test_what_runs_ends_with_the_policy_that_it_began_with(reference: tuple[Any, Any], undecided: str) -> None:
    ids = reference[1](undecided).input_ids
    configs = Configs(Served(POLICY, version="old"))
    expected = {policy: written_text(reference, policy, ids, MOST, **vars(HOT)) for policy in (POLICY, TINY)}
    assert expected[POLICY] != expected[TINY]
    with attach(POLICY, reference[0]):
        engine = engine_of(reference, configs)
        told: SimpleQueue[Event] = SimpleQueue()

        def tell(event: Event) -> None:  # in the engine's thread, with its first token
            configs.replace(Served(TINY, version="new"))
            told.put(event)

        engine.submit(Job(tuple(ids), MOST, tell, HOT))
        assert answer(told)[0] == expected[POLICY]
        assert asked(engine, ids, sampling=HOT)()[0] == expected[TINY]
        engine.close()


def test_a_canary_answers_its_share_and_is_counted_apart(reference: tuple[Any, Any], undecided: str) -> None:
    ids = reference[1](undecided).input_ids
    policies = {STABLE: POLICY, CANARY: TINY}
    expected = {role: written_text(reference, policy, ids, MOST, **vars(HOT)) for role, policy in policies.items()}
    assert expected[STABLE] != expected[CANARY]
    configs = Configs(Served(POLICY), Served(TINY, CANARY), 0.3)
    shares = [configs.pick().role for _ in range(2000)].count(CANARY) / 2000
    assert 0.2 < shares < 0.4
    with attach(POLICY, reference[0]):
        engine = engine_of(reference, configs)
        picked = [configs.now(role) for role in (STABLE, CANARY, STABLE)]
        answers = [asked(engine, ids, served=served, sampling=HOT) for served in picked]
        for served, each in zip(picked, answers, strict=True):
            text, end = each()
            assert text == expected[served.role]
            assert isinstance(end, Ended)
            if served.role == CANARY:
                assert value(engine, "cache_kept_tokens_total", config=CANARY) == end.kept
                assert value(engine, "cache_full_tokens_total", config=CANARY) == end.full > end.kept
        engine.close()
        for name in ("prompt_tokens_total", "first_token_seconds_count"):
            assert value(engine, name, config=STABLE) == 2 * value(engine, name, config=CANARY) > 0


def measured_offline(model: Any, policy: Policy, ids: list[int], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities `[token, vocabulary]` after each of `tokens`, with a pruned cache."""
    found, cache = [], None
    with attach(policy, model), torch.no_grad():
        for piece in (ids, *([token] for token in tokens)):
            output = model(torch.tensor([piece]), cache=cache)
            cache = output.cache
            found.append(output.logits[0, -1].log_softmax(-1))
    return torch.stack(found[1:])


@pytest.mark.parametrize("policy", [POLICY, TINY, Policy.h2o(4, 0.3, decode_every=4)], ids=["mixed", "tiny", "decode"])
def test_a_shadow_is_measured_and_the_full_cache_answers(
    reference: tuple[Any, Any], prompts: list[str], policy: Policy
) -> None:
    model, tokenizer = reference
    encoded = [tokenizer(prompt).input_ids for prompt in sorted(prompts, key=len)[-3:]]
    memory = sum(CacheCost.of(model, each).holding(400, MOST) for each in (policy, Policy.full(4)))
    nats = agreed = compared = 0.0
    with attach(POLICY, model):
        engine = engine_of(reference, Configs(Served(policy, SHADOW)), memory=3 * memory)
        answers = [each() for each in [asked(engine, ids) for ids in encoded]]
        engine.close()
    for ids, (text, end) in zip(encoded, answers, strict=True):
        tokens = written(model, Policy.full(4), ids, MOST)
        assert text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(end, Ended)
        assert end.kept == end.full == len(ids) + len(tokens) - 1
        full, pruned = (measured_offline(model, each, ids, tokens[:-1]) for each in (Policy.full(4), policy))
        nats += float((full.exp() * (full - pruned)).sum(-1).mean())
        agreed += float((full.argmax(-1) == pruned.argmax(-1)).sum())
        compared += len(tokens) - 1
    assert value(engine, "shadow_tokens_total") == compared
    assert value(engine, "shadow_agreed_tokens_total") == agreed
    assert value(engine, "shadow_kl_nats_sum") == pytest.approx(nats, rel=1e-3, abs=1e-6)
    assert nats > 0.0001
    kept, whole = (value(engine, f"cache_{each}_tokens_total", config=SHADOW) for each in ("kept", "full"))
    assert kept < whole == sum(end.full for _, end in answers if isinstance(end, Ended))


def test_a_shadow_that_evicts_while_reading_is_refused() -> None:
    with pytest.raises(A2SFError, match="evict after the prompt and not 'chunk=8'"):
        Served(Policy.h2o(4, 0.3, evict="chunk=8"), SHADOW)


def test_one_content_is_one_version(config: Any) -> None:
    from a2sf_core import A2SFConfig

    one = A2SFConfig.from_pretrained(config)
    assert Served.of(one) == Served.of(A2SFConfig.from_pretrained(config))
    assert Served.of(one, CANARY).version == Served.of(one).version
