"""The cache inside transformers: generate in all its ways, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from a2sf_core import A2SFCache, A2SFError, LayerPolicy, Policy, attach
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.rules.attention import Decay
from a2sf_core.switch import cache_argument

from . import models

LONG = {**models.GREEDY, "max_new_tokens": 16}


@pytest.mark.parametrize("left", [0, 9], ids=["unpadded", "padded"])
@pytest.mark.parametrize("extra", [{}, {"prefill_chunk_size": 16}], ids=["whole", "in pieces"])
def test_without_a_budget_tokens_are_the_stock_ones(model: Any, left: int, extra: dict[str, Any]) -> None:
    ids, mask = models.prompt(2, 40), models.padding(2, 40, left)
    stock = model.generate(ids, attention_mask=mask, **LONG)
    with attach(Policy.full(models.LAYERS), model):
        assert (model.generate(ids, attention_mask=mask, **LONG, **extra) == stock).all()


@pytest.mark.parametrize("extra", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beam_search(llama: Any, extra: dict[str, Any]) -> None:
    ids, mask = models.prompt(2, 20), models.padding(2, 20, 4)
    stock = llama.generate(ids, attention_mask=mask, **LONG, **extra)
    with attach(Policy.full(models.LAYERS), llama):
        assert (llama.generate(ids, attention_mask=mask, **LONG, **extra) == stock).all()
    # Scores and positions must follow the beams: budgets that drop nothing change nothing.
    with attach(Policy.h2o(models.LAYERS, 1000, decode_every=1), llama):
        assert (llama.generate(ids, attention_mask=mask, **LONG, **extra) == stock).all()
    with attach(Policy.h2o(models.LAYERS, 8, decode_every=2), llama):
        assert llama.generate(ids, attention_mask=mask, **LONG, **extra).shape == stock.shape


def test_num_return_sequences_by_sampling(llama: Any) -> None:
    options = {**LONG, "do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(0)
    stock = llama.generate(models.prompt(1, 20), **options)
    torch.manual_seed(0)
    with attach(Policy.full(models.LAYERS), llama):
        assert (llama.generate(models.prompt(1, 20), **options) == stock).all()


@pytest.mark.parametrize("evict", ["prefill", "chunk=8", "step"])
def test_prefill_chunk_size_changes_nothing(llama: Any, evict: str) -> None:
    ids, mask = models.prompt(2, 40), models.padding(2, 40, 9)
    with attach(Policy.a2sf(models.LAYERS, 0.3, 0.9, evict=evict), llama):
        whole = llama.generate(ids, attention_mask=mask, **LONG)
        pieces = llama.generate(ids, attention_mask=mask, prefill_chunk_size=16, **LONG)
    assert (whole == pieces).all()


def test_second_turn_of_generate(llama: Any) -> None:
    """A cache that is passed on continues at the right positions."""
    policy, ids = Policy.h2o(models.LAYERS, 1000), models.prompt(1, 20)
    stock = llama.generate(ids, return_dict_in_generate=True, **LONG)
    longer = torch.cat([stock.sequences, models.prompt(1, 9, seed=5)], dim=1)
    with attach(policy, llama):
        first = llama.generate(ids, return_dict_in_generate=True, **LONG)
        name = cache_argument(llama)
        second = llama.generate(longer, **LONG, **{name: first[name]})
    assert (second == llama.generate(longer, **LONG)).all()


def test_decoding_stays_at_the_budget(llama: Any) -> None:
    cache = A2SFCache(Policy.a2sf(models.LAYERS, 10, 0.9, decode_every=4))
    with attach(Policy.a2sf(models.LAYERS, 10, 0.9), llama):
        llama.generate(models.prompt(1, 30), **LONG, **{cache_argument(llama): cache})
    assert cache.get_seq_length() == 30 + 15
    assert 10 <= cache.layers[0].keys.shape[-2] < 10 + 4


def test_cut_gives_the_memory_back(llama: Any) -> None:
    policy = Policy((LayerPolicy(budget=0.5), LayerPolicy(budget=5), LayerPolicy()))
    cache = A2SFCache(policy)
    assert cache.nbytes() == 0
    with attach(policy, llama), torch.no_grad():
        llama(models.prompt(1, 40), **{cache_argument(llama): cache})
    token = 2 * 2 * 8 * 4  # keys and values, KV heads, head size, bytes
    assert cache.nbytes() == 3 * 40 * token
    cache.cut()
    assert cache.nbytes() == (20 + 5 + 40) * token
    assert cache.get_seq_length() == 40


def test_rows_can_be_repeated_selected_and_reset(llama: Any) -> None:
    policy = Policy.snapkv(models.LAYERS, 10, 4)
    ids, name = models.prompt(2, 30), cache_argument(llama)
    cache = A2SFCache(policy)
    with attach(policy, llama), torch.no_grad():
        llama(ids, **{name: cache})
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([2, 1]))
        swapped = llama(ids[:, -1:].flip(0), **{name: cache}).logits
        cache.reset()
        assert cache.get_seq_length() == 0
        llama(ids, **{name: cache})
        plain = llama(ids[:, -1:], **{name: cache}).logits
    torch.testing.assert_close(swapped, plain.flip(0), atol=1e-5, rtol=0)


ROLL_BACK = "call generate without assistant_model / prompt_lookup_num_tokens"


def test_assisted_decoding_is_refused(llama: Any) -> None:
    with attach(Policy.a2sf(models.LAYERS, 10, 0.9), llama), pytest.raises(A2SFError, match=ROLL_BACK):
        llama.generate(models.prompt(1, 20), assistant_model=models.build("llama", seed=9), **LONG)


@pytest.mark.parametrize("own_cache", [False, True])
def test_prompt_lookup_is_refused(llama: Any, own_cache: bool) -> None:
    policy = Policy.a2sf(models.LAYERS, 10, 0.9)
    given = {cache_argument(llama): A2SFCache(policy)} if own_cache else {}
    with attach(policy, llama), pytest.raises(A2SFError, match=ROLL_BACK):
        llama.generate(models.prompt(1, 20), prompt_lookup_num_tokens=3, **given, **LONG)


def test_crop(llama: Any) -> None:
    cache = A2SFCache(Policy.full(models.LAYERS))
    cache.crop(0)
    with pytest.raises(A2SFError, match=ROLL_BACK):
        cache.crop(-1)


@torch.no_grad()
def test_foreign_caches_are_refused(llama: Any) -> None:
    ids, name = models.prompt(1, 20), cache_argument(llama)
    filled = DynamicCache(config=llama.config)
    llama(ids, **{name: filled})
    static = StaticCache(config=llama.config, max_cache_len=64)
    with attach(Policy.h2o(models.LAYERS, 8), llama):
        for cache, sentence in (
            (filled, "filled without this policy"),
            (static, "StaticCache cannot be pruned"),
            (A2SFCache(Policy.full(2)), "the cache has 2 layers but the model has 3"),
        ):
            with pytest.raises(A2SFError, match=sentence):
                llama(ids, **{name: cache})
        with pytest.raises(A2SFError, match="StaticCache cannot be pruned"):
            llama.generate(ids, cache_implementation="static", **LONG)
        with pytest.raises(A2SFError, match="DynamicCache with offloading"):
            llama.generate(ids, cache_implementation="offloaded", **LONG)
        with pytest.raises(A2SFError, match="use_cache"):
            llama(ids, use_cache=False)
        with pytest.raises(A2SFError, match="whole model"):
            llama.model(ids, use_cache=False)
        cache = A2SFCache(Policy.full(3))
        llama(ids, **{name: cache})
        with pytest.raises(A2SFError, match="mask of the whole sequence"):
            llama(ids[:, :2], attention_mask=torch.tensor([[0, 1]]), **{name: cache})


@torch.no_grad()
def test_cache_on_an_unattached_model_is_refused(llama: Any) -> None:
    with pytest.raises(A2SFError, match="not attached"):
        llama(models.prompt(1, 20), **{cache_argument(llama): A2SFCache(Policy.h2o(models.LAYERS, 8))})
    llama(models.prompt(1, 20))  # and leaves nothing behind


def test_equal_head_budgets_are_one_budget(llama: Any) -> None:
    outputs = []
    for budget in (8, (8, 8)):
        policy = Policy.uniform(models.LAYERS, rule=Decay(4), budget=budget, evict="chunk=4")
        assert all(type(layer) is A2SFLayer for layer in A2SFCache(policy).layers)
        with attach(policy, llama):
            outputs.append(llama.generate(models.prompt(1, 30), **LONG))
    assert (outputs[0] == outputs[1]).all()
