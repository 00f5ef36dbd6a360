"""Whoever else holds the model while it is attached: other threads, copies, torch.compile."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from a2sf_core import A2SFError, Policy, attach

from . import models


@torch.no_grad()
def kept(model: Any, n: int = 20) -> int:
    """Tokens that the first layer holds after a prompt of `n` and one more."""
    cache = model(models.prompt(1, n)).cache
    cache = model(models.prompt(1, 1), cache=cache).cache
    return int(cache.layers[0].keys.shape[2])


def text(model: Any, seed: int) -> list[int]:
    return list(model.generate(models.prompt(1, 20, seed), max_new_tokens=6, **models.GREEDY)[0].tolist())


def test_callers_in_other_threads_are_pruned_each_with_a_cache_of_its_own() -> None:
    model = models.build("llama")
    with attach(Policy.h2o(3, 8), model):
        alone = [text(model, seed) for seed in range(6)]
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda seed: text(model, seed), range(6))) == alone
            assert list(pool.map(lambda _: kept(model), range(3))) == [9, 9, 9]
    assert kept(model) == 21


def test_a_second_attach_from_another_thread_is_refused_with_what_to_do() -> None:
    model = models.build("llama")

    def again() -> str:
        try:
            with attach(Policy.full(3), model):
                return "attached"
        except A2SFError as error:
            return str(error)

    with attach(Policy.h2o(3, 8), model), ThreadPoolExecutor(1) as pool:
        assert "attach once, every caller of this model is pruned" in pool.submit(again).result()
        assert kept(model) == 9, "the first stays as it is"
    assert again() == "attached"


def test_of_threads_that_attach_at_once_one_is_served() -> None:
    model, barrier, done = models.build("qwen3"), threading.Barrier(4), threading.Event()

    def attach_and_wait(_: int) -> bool:
        barrier.wait()
        try:
            with attach(Policy.h2o(3, 8), model):
                done.wait(300)
                return True
        except A2SFError:
            return False
        finally:
            refused.release()

    refused = threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(attach_and_wait, i) for i in range(4)]
        for _ in range(3):
            assert refused.acquire(timeout=300)
        done.set()
        assert sorted(result.result() for result in results) == [False, False, False, True]
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_a_copy_made_inside_is_a_model_of_its_own(before: str) -> None:
    model = models.build("llama")
    model.set_attn_implementation(before)
    with attach(Policy.h2o(3, 8), model):
        inside, later, attached = (copy.deepcopy(model) for _ in range(3))
        assert kept(inside) == 21, "it is not pruned"
        assert kept(model) == 9
        with attach(Policy.h2o(3, 4), attached):
            assert kept(attached) == 5
    assert kept(later) == 21
    for each in (inside, later, attached):
        assert each.config._attn_implementation == before
        assert not each._forward_pre_hooks


@torch.no_grad()
def test_torch_compile_breaks_its_graph_and_nothing_else() -> None:
    """Scoring asks the host how many tokens stay, so that no one graph holds it; the text is the same."""
    model, ids = models.build("llama"), models.prompt(1, 20)
    with attach(Policy.h2o(3, 8), model):
        plain = model.generate(ids, max_new_tokens=2, **models.GREEDY)
        torch._dynamo.reset()
        model.forward = torch.compile(model.forward, backend="eager")
        assert torch.equal(model.generate(ids, max_new_tokens=2, **models.GREEDY), plain)
        del model.forward
    torch._dynamo.reset()
