"""Budgets per KV head: the same results as hiding the dropped tokens head by head, in really fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor

from a2sf_core import A2SFCache, A2SFConfig, A2SFError, LayerPolicy, Policy, attach
from a2sf_core.layers.ragged import RaggedLayer
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.shape import fingerprint
from a2sf_core.switch import cache_argument

from . import models, reference
from .test_cache import LONG, ROLL_BACK
from .test_eviction import N_ANSWER, N_PROMPT, close, run, token_splits

N = N_PROMPT + N_ANSWER


@pytest.fixture(scope="module")
def wide() -> Any:
    """Four KV heads with two query heads each, so that heads with equal budgets need not be neighbours."""
    torch.manual_seed(0)
    grouped = {**models._SHARED, "num_attention_heads": 8, "num_key_value_heads": 4}
    return t.LlamaForCausalLM(t.LlamaConfig(**grouped)).eval()


def ragged(model: Any, **timing: Any) -> Policy:
    """Fractions and tokens, neighbours and not, with a layer of one budget among them."""
    heads = fingerprint(model)["n_kv_heads"]
    layers = (
        LayerPolicy(rule=Decay(8), budget=(6, 0.5, 6, 0.2)[:heads], recent=0.5, sink=1),
        LayerPolicy(rule=Decay(inf), budget=(15, 4, 4, 4)[:heads], recent=2),
        LayerPolicy(rule=Decay(0), budget=12),
    )
    return Policy(layers, **timing)


def wanted(model: Any, policy: Policy, ids: Tensor, valid: Tensor | None = None) -> Tensor:
    return reference.logits(model, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)


def held(cache: A2SFCache) -> Iterator[Tensor]:
    """The key and value tensors of every layer."""
    for layer in cache.layers:
        for part in layer.parts if isinstance(layer, RaggedLayer) else (layer,):
            yield from (part.keys, part.values)


@torch.no_grad()
def read(model: Any, policy: Policy, ids: Tensor) -> A2SFCache:
    """The cut cache after a prompt."""
    cache = A2SFCache(policy)
    with attach(policy, model):
        model(ids, **{cache_argument(model): cache})
    cache.cut()
    return cache


@pytest.mark.parametrize("evict", ["prefill", "chunk=8"])
def test_every_family_equals_hiding_the_dropped_tokens(model: Any, evict: str) -> None:
    policy, ids, valid = ragged(model, evict=evict), models.prompt(2, N), models.padding(2, N, 6)
    expected = wanted(model, policy, ids, valid)
    close(run(model, policy, ids, valid, token_splits()), expected, valid)
    if evict == "prefill":
        even = Policy(tuple(replace(rule, budget=12) for rule in policy.layers))
        difference = (expected - wanted(model, even, ids, valid))[:, N_PROMPT:]
        assert difference.abs().max() > 0.01, "unequal budgets change nothing, so this shows nothing"


WINDOWS = (
    LayerPolicy(rule=Window(4), budget=(5, 10, 5, 20), recent=4),
    LayerPolicy(),
    LayerPolicy(Decay(16.0), (0.5, 0.5, 0.1, 1.0)),
)
MODES: dict[str, Any] = {
    "prefill": {},
    "decode every 3": {"decode_every": 3},
    "chunk of 8, decode every 2": {"evict": "chunk=8", "decode_every": 2},
    "step": {"evict": "step"},
    "window": None,
}


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_prompts_in_pieces(wide: Any, mode: str, left: int) -> None:
    policy = Policy(WINDOWS) if mode == "window" else ragged(wide, **MODES[mode])
    ids, valid = models.prompt(2, N), models.padding(2, N, left)
    expected = wanted(wide, policy, ids, valid)
    close(run(wide, policy, ids, valid, token_splits()), expected, valid)
    close(run(wide, policy, ids, valid, [7, 16, *token_splits()]), expected, valid)


def test_second_turn_is_cut_again(wide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, ids = ragged(wide), models.prompt(1, 50)
    got = run(wide, policy, ids, None, [30, 31, 32, 44, *range(45, 51)])
    monkeypatch.setattr(reference, "_is_due", lambda policy, t, *_: t in (29, 43))
    close(got, wanted(wide, policy, ids))


def test_bytes_are_those_of_the_kept_tokens(wide: Any) -> None:
    policy, ids = ragged(wide), models.prompt(2, 40)
    cache = read(wide, policy, ids)
    counts = [rule.head_budget_tokens(40) for rule in policy.layers]
    assert counts == [(6, 20, 6, 8), (15, 4, 4, 4), (12,)]
    kept = [layer.kept_counts().tolist() for layer in cache.layers]
    assert kept == [[list(heads * (4 // len(heads)))] * 2 for heads in counts], "one list per row of the batch"

    token = 2 * 4 * 4  # keys and values, head size, bytes
    expected = 2 * sum(map(sum, (row[0] for row in kept))) * token  # two rows
    padded = Policy(tuple(LayerPolicy(layer.rule, max(c)) for layer, c in zip(policy.layers, counts, strict=True)))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held(cache)}
    assert cache.nbytes() == sum(storages.values()) == expected
    assert expected < read(wide, padded, ids).nbytes()
    assert expected == policy.cache_fraction(40) * read(wide, Policy.full(3), ids).nbytes()


def test_each_head_knows_where_its_tokens_stood(wide: Any) -> None:
    """StreamingLLM keeps what is known beforehand, so the order of the heads shows."""
    cache = read(wide, Policy.streaming_llm(3, (4, 6, 4, 0.25), sink=1), models.prompt(1, 40))
    layer = cache.layers[0]
    assert isinstance(layer, RaggedLayer)
    assert [part.positions[0, 0].tolist() for _, part in layer.groups()] == [
        [0, 37, 38, 39],
        [0, 35, 36, 37, 38, 39],
        [0, *range(31, 40)],
    ]
    assert layer.kept_counts().tolist() == [[4, 6, 4, 10]]
    assert layer.get_seq_length() == 40


@pytest.mark.parametrize("extra", [{}, {"prefill_chunk_size": 16}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generate_as_with_one_budget(wide: Any, extra: dict[str, Any]) -> None:
    """10 tokens and half of 20 tokens are stored apart but are the same, so the plain layer tells what is right."""
    ids, outputs = models.prompt(2, 20), []
    for budget in (10, (10, 0.5, 10, 0.5)):
        with attach(Policy.h2o(3, budget), wide):
            first = wide.generate(ids, return_dict_in_generate=True, **LONG, **extra)
            outputs.append(first.sequences)
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != wide.generate(ids, **LONG, **extra)).any(), "no token was missed, so this shows nothing"


@torch.no_grad()
def test_rows_can_be_repeated_selected_and_reset(wide: Any) -> None:
    policy, ids, name = Policy(WINDOWS), models.prompt(2, 30), cache_argument(wide)
    cache = A2SFCache(policy)
    cache.batch_repeat_interleave(2)  # nothing to repeat yet
    with attach(policy, wide):
        wide(ids, **{name: cache})
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([2, 1, 0, 3]))
        cache.batch_select_indices(torch.tensor([0, 1]))
        swapped = wide(ids[:, -1:].flip(0), **{name: cache}).logits
        cache.reset()
        assert not cache.is_initialized
        assert cache.nbytes() == cache.get_seq_length() == 0
        wide(ids, **{name: cache})
        plain = wide(ids[:, -1:], **{name: cache}).logits
    close(swapped, plain.flip(0))
    assert cache.get_mask_sizes(2, 0) == (33, 0)
    assert cache.get_max_length() == -1


@torch.no_grad()
def test_initialised_early_and_never_rolled_back(wide: Any) -> None:
    policy, ids, name = ragged(wide), models.prompt(1, 20), cache_argument(wide)
    cache = A2SFCache(policy)
    cache.early_initialization(1, 4, 4, torch.float32, torch.device("cpu"))
    assert cache.is_initialized
    with attach(policy, wide):
        close(wide(ids, **{name: cache}).logits, wide(ids).logits)
    cache.crop(0)
    with pytest.raises(A2SFError, match=ROLL_BACK):
        cache.crop(-1)
    with pytest.raises(A2SFError, match="not attached"):
        wide(ids, **{name: A2SFCache(policy)})


def test_the_exported_file_carries_them(wide: Any, tmp_path: Path) -> None:
    config = A2SFConfig(fingerprint(wide), "chat", ragged(wide, decode_every=2))
    config.save_pretrained(tmp_path)
    loaded = A2SFConfig.from_pretrained(tmp_path)
    assert loaded == config
    ids = models.prompt(1, 20)
    with config.attach(wide):
        before = wide.generate(ids, **LONG)
    with loaded.attach(wide):
        assert (wide.generate(ids, **LONG) == before).all()


@torch.no_grad()
def test_one_budget_per_head_or_a_sentence(llama: Any) -> None:
    sentence = r"budget has 3 entries but the model has 2 KV heads; give one budget per KV head"
    for budget in ((4, 8, 4), (4, 4, 4)):
        policy = Policy.uniform(3, budget=budget)
        with pytest.raises(A2SFError, match=r"layers\[0\]\." + sentence), attach(policy, llama):
            pass
        with pytest.raises(A2SFError, match=sentence):
            A2SFConfig(fingerprint(llama), "chat", policy)
    foreign = A2SFCache(Policy.uniform(3, budget=(4, 8, 4)))
    with attach(Policy.full(3), llama), pytest.raises(A2SFError, match="for 3 KV heads but the layer has 2"):
        llama(models.prompt(1, 20), **{cache_argument(llama): foreign})
