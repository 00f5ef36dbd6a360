"""One context, many questions: what is read after the seal is kept whole and changes nothing for the next question."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from a2sf_core import A2SFCache, A2SFConfig, A2SFError, LayerPolicy, Policy, attach, decode, read_context
from a2sf_core.cache import parts_of
from a2sf_core.errors import warn_once
from a2sf_core.rules.attention import Decay
from a2sf_core.shape import fingerprint
from a2sf_core.switch import cache_argument

from . import models, reference
from .test_eviction import MIXED, close

N_CONTEXT, N_QUESTION, N_ANSWER = 30, 5, 6
N = N_CONTEXT + N_QUESTION + N_ANSWER
HEADS = tuple(
    LayerPolicy(Decay(8), budget, recent=2, sink=1) for budget in ((0.3, 0.6), (9, 4), (0.9, 0.2))
)  # two KV heads


def asked(batch: int, seed: int) -> Tensor:
    """The same contexts `[batch, N]` with another question and answer for each seed."""
    return torch.cat([models.prompt(batch, N_CONTEXT), models.prompt(batch, N - N_CONTEXT, seed=seed)], 1)


@torch.no_grad()
def answered(model: Any, cache: A2SFCache, ids: Tensor, valid: Tensor) -> Tensor:
    """Logits `[batch, question + answer, vocab]`: the question in one forward, the answer token by token."""
    splits = [N_CONTEXT, N_CONTEXT + N_QUESTION, *range(N_CONTEXT + N_QUESTION + 1, N + 1)]
    return torch.cat([
        model(
            ids[:, start:stop],
            attention_mask=valid[:, :stop],
            position_ids=reference.positions(valid)[:, start:stop],
            **{cache_argument(model): cache},
        ).logits
        for start, stop in pairwise(splits)
    ], 1)  # fmt: skip


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
def test_every_question_is_answered_as_if_it_were_the_only_one(model: Any, left: int) -> None:
    policy, valid = Policy(MIXED), models.padding(2, N, left)
    kept_whole = reference.token_by_token(policy, N_CONTEXT)
    with attach(policy, model):
        cache = read_context(model, asked(2, 0)[:, :N_CONTEXT], valid[:, :N_CONTEXT], chunk=8)
        held = cache.nbytes()
        found = [answered(model, cache.fork(), asked(2, seed), valid) for seed in (5, 6, 7)]
        assert cache.nbytes() == held
        assert cache.get_seq_length() == N_CONTEXT
    for seed, logits in zip((5, 6, 7), found, strict=True):
        wanted = reference.logits(model, policy, kept_whole, asked(2, seed), valid)
        close(logits, wanted[:, N_CONTEXT:])


@pytest.mark.parametrize(
    "policy",
    [Policy(HEADS), Policy(MIXED, evict="chunk=8"), Policy.snapkv(3, 10, 4), Policy.full(3)],
    ids=["heads", "chunk", "window", "full"],
)
def test_every_policy_that_lets_answers_grow(llama: Any, policy: Policy) -> None:
    ids = asked(1, 5)
    valid = torch.ones_like(ids)
    with attach(policy, llama):
        logits = answered(llama, read_context(llama, ids[:, :N_CONTEXT]), ids, valid)
    wanted = reference.logits(llama, policy, reference.token_by_token(policy, N_CONTEXT), ids, valid)
    close(logits, wanted[:, N_CONTEXT:])


def test_without_a_seal_the_question_is_cut_too(llama: Any) -> None:
    ids = asked(1, 5)
    caches = []
    with attach(Policy.h2o(3, 8), llama):
        for seals in (True, False):
            cache = A2SFCache(Policy.h2o(3, 8))
            with torch.no_grad():
                llama(ids[:, :N_CONTEXT], **{cache_argument(llama): cache})
            cache.seal() if seals else cache.cut()
            answered(llama, cache, ids, torch.ones_like(ids))
            caches.append(cache)
    held = [cache.layers[0].kept_counts().tolist() for cache in caches]
    assert held == [[[8 + N_QUESTION + N_ANSWER] * 2], [[8 + N_ANSWER] * 2]]


def test_decoding_still_evicts_where_the_policy_says_so(llama: Any) -> None:
    ids = asked(1, 5)
    with attach(Policy.h2o(3, 8, decode_every=3), llama):
        cache = read_context(llama, ids[:, :N_CONTEXT])
        answered(llama, cache, ids, torch.ones_like(ids))
    assert cache.layers[0].kept_counts().tolist() == [[8, 8]]


@pytest.mark.parametrize("policy", [Policy(MIXED), Policy(HEADS)], ids=["layers", "heads"])
def test_generate_and_decode_go_on_from_a_fork(llama: Any, policy: Policy) -> None:
    texts = []
    with attach(policy, llama), torch.no_grad():
        cache = read_context(llama, asked(1, 0)[:, :N_CONTEXT])
        for seed in (5, 6):
            ids = asked(1, seed)[:, : N_CONTEXT + N_QUESTION]
            written = llama.generate(ids, **models.GREEDY, max_new_tokens=9, **{cache_argument(llama): cache.fork()})
            fork = cache.fork()
            first = llama(ids[:, N_CONTEXT:], **{cache_argument(llama): fork}).logits[:, -1].argmax(-1)
            assert decode(llama, fork, first, 9).tolist() == written[:, ids.shape[1] :].tolist()
            texts.append(written[0, ids.shape[1] :].tolist())
    assert texts[0] != texts[1]


def test_after_the_seal_nothing_is_scored_any_more(llama: Any) -> None:
    ids = asked(1, 5)
    with attach(Policy.h2o(3, 8), llama), torch.no_grad():
        cache = read_context(llama, ids[:, :N_CONTEXT])
        assert all(part.scores.numel() == 0 for part in parts_of(cache))
        cache.reset()
        llama(ids, **{cache_argument(llama): cache})
        cache.cut()
    assert cache.layers[0].kept_counts().tolist() == [[8, 8]]


def test_what_cannot_be_read_is_said(llama: Any) -> None:
    ids = models.prompt(1, 20)
    with pytest.raises(A2SFError, match="read_context needs an attached model"):
        read_context(llama, ids)
    with attach(Policy.h2o(3, 8), llama):
        with pytest.raises(A2SFError, match="the context has no tokens"):
            read_context(llama, ids[:, :0])
        with pytest.raises(A2SFError, match="chunk must be at least 2 tokens"):
            read_context(llama, ids, chunk=1)
        assert read_context(llama, ids[:, :17], chunk=8).layers[0].kept_counts().tolist() == [[8, 8]]


@pytest.mark.parametrize(
    ("tuned_for", "used_for", "said"),
    [
        ("context", "prompt", "tuned for a context that is cut before its question is known"),
        ("prompt", "context", "tuned for a cut after the whole prompt"),
        ("context", "context", ""),
        ("prompt", "prompt", ""),
    ],
)
@pytest.mark.parametrize("layers", [MIXED, HEADS], ids=["layers", "heads"])
def test_a_policy_that_is_used_for_the_other_cut_says_so_once(
    llama: Any, layers: tuple[LayerPolicy, ...], tuned_for: str, used_for: str, said: str
) -> None:
    warn_once.cache_clear()
    config = A2SFConfig(fingerprint(llama), "knowledge", Policy(layers), cut=tuned_for)
    ids = asked(1, 5)
    with warnings.catch_warnings(record=True) as caught, config.attach(llama):
        warnings.simplefilter("always")
        for _ in range(2):
            given = {cache_argument(llama): read_context(llama, ids[:, :N_CONTEXT])} if used_for == "context" else {}
            llama.generate(ids, **models.GREEDY, max_new_tokens=3, **given)
    assert [said in str(each.message) for each in caught] == [True] * bool(said)


def test_who_attaches_without_a_config_is_not_told(llama: Any) -> None:
    warn_once.cache_clear()
    with warnings.catch_warnings(), attach(Policy(MIXED), llama):
        warnings.simplefilter("error")
        read_context(llama, models.prompt(1, 20))
        llama.generate(models.prompt(1, 20), **models.GREEDY, max_new_tokens=3)
