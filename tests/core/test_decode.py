"""Decoding in static buffers must equal decoding with the growing cache, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from a2sf_core import A2SFCache, A2SFError, LayerPolicy, Policy, attach, decode
from a2sf_core.cache import parts_of
from a2sf_core.decoder import Decoder
from a2sf_core.layers import slot_part
from a2sf_core.layers.slots import SlotLayer
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.learned import Learned
from a2sf_core.switch import cache_argument

from . import models, reference
from .test_eviction import MIXED
from .test_ragged import WINDOWS, ragged, wide  # noqa: F401

N_PROMPT, STEPS = 30, 13

LEARNED = LayerPolicy(Learned((2.0, 8.0, inf), ((0.5, 0.2, 0.3), (-0.2, 1.0, 0.1)), (1.0, 0.4)), 9, 2, 1)
POLICIES = {
    "never": Policy(MIXED),
    "every token": Policy(MIXED, decode_every=1),
    "every 4": Policy(MIXED, decode_every=4),
    "every 4, chunks": Policy(MIXED, evict="chunk=8", decode_every=4),
    "step": Policy(MIXED, evict="step"),
    "window": Policy(
        (LayerPolicy(rule=Window(4), budget=8, recent=4), LayerPolicy(), LayerPolicy(Decay(16.0), 0.5)), decode_every=3
    ),
    "streaming": Policy.streaming_llm(3, 10, sink=3, decode_every=2),
    "budget reached late": Policy(
        (LayerPolicy(Decay(4.0), 35), LayerPolicy(budget=1000), LayerPolicy(Decay(2.0), 1.0)), "step"
    ),
    "full": Policy.full(3),
    "learned": Policy((LEARNED,) * 3, decode_every=3),
}


@torch.no_grad()
def read(model: Any, policy: Policy, ids: Tensor, valid: Tensor) -> tuple[A2SFCache, Tensor]:
    """The cache after a prompt, and the token that follows it `[batch]`."""
    cache = A2SFCache(policy)
    with attach(policy, model):
        cached = {cache_argument(model): cache}
        logits = model(ids, attention_mask=valid, position_ids=reference.positions(valid), **cached).logits
    return cache, logits[:, -1].argmax(-1)


@torch.no_grad()
def grow(model: Any, cache: A2SFCache, token: Tensor, valid: Tensor) -> Iterator[Tensor]:
    """Logits `[batch, vocabulary]` of each step of an attached model with the growing cache."""
    while True:
        valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        cached = {cache_argument(model): cache}
        where = reference.positions(valid)[:, -1:]
        logits = model(token[:, None], attention_mask=valid, position_ids=where, **cached).logits[:, -1]
        yield logits
        token = logits.argmax(-1)


def held(cache: A2SFCache) -> list[Tensor]:
    """Positions per layer and budget, as sorted rows without their common empty end."""
    rows = [getattr(part, "slots", part).positions.long().sort(descending=True).values for part in parts_of(cache)]
    return [row[..., : int((row >= 0).sum(-1).max())] for row in rows]


def check(model: Any, policy: Policy, left: int, steps: int = STEPS) -> None:
    ids, valid = models.prompt(2, N_PROMPT), models.padding(2, N_PROMPT, left)
    growing, first = read(model, policy, ids, valid)
    static, _ = read(model, policy, ids, valid)
    wanted = grow(model, growing, first, valid)
    with attach(policy, model):
        decoder = Decoder(model, static, first, steps)
        bytes_before = static.nbytes()
        for step, logits in zip(range(steps), wanted, strict=False):
            decoder.step()
            torch.testing.assert_close(decoder.logits, logits, atol=1e-4, rtol=0)
            for got, expected in zip(held(static), held(growing), strict=True):
                assert torch.equal(got, expected), f"step {step}"
        assert static.nbytes() == bytes_before
        decoder.close()
        assert torch.equal(decoder.tokens[:, -1], logits.argmax(-1))
        # Both caches are now the same to the next turn, which reads tokens and cuts again.
        more = models.prompt(2, 5, seed=9)
        turn = {"attention_mask": torch.cat([valid, torch.ones(2, steps + 5, dtype=torch.long)], dim=1)}
        turn["position_ids"] = reference.positions(turn["attention_mask"])[:, -5:]
        with torch.no_grad():
            got, expected = (model(more, **turn, **{cache_argument(model): c}).logits for c in (static, growing))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        for cache in (static, growing):
            cache.cut()
        for mine, theirs in zip(held(static), held(growing), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy(llama: Any, name: str, left: int) -> None:
    check(llama, POLICIES[name], left)


def test_every_family(model: Any) -> None:
    check(model, POLICIES["every 4"], left=6)


def test_layers_with_and_without_sliding_window() -> None:
    torch.manual_seed(0)
    config = t.Gemma3TextConfig(
        **models._GROUPED,
        head_dim=8,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    check(t.Gemma3ForCausalLM(config).eval(), POLICIES["every 4"], left=6)


@pytest.mark.parametrize("timing", [{}, {"decode_every": 3}, {"evict": "step"}], ids=str)
def test_budgets_per_head(wide: Any, timing: dict[str, Any]) -> None:  # noqa: F811
    check(wide, ragged(wide, **timing), left=6)


def test_windows_per_head(wide: Any) -> None:  # noqa: F811
    check(wide, Policy(WINDOWS, decode_every=3), left=6)


@pytest.mark.parametrize("name", ["never", "window"])
def test_more_tokens_than_the_ring_holds(llama: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_part, "RING", 4)
    monkeypatch.setattr("a2sf_core.decoder.RING", 4)
    check(llama, POLICIES[name], left=6)


def test_decoding_that_goes_on_where_generate_stopped(llama: Any) -> None:
    """The next eviction comes when it would have come."""
    policy, ids = POLICIES["every 4"], models.prompt(1, N_PROMPT)
    valid = torch.ones_like(ids)
    (cache, first), (other, _) = read(llama, policy, ids, valid), read(llama, policy, ids, valid)
    with attach(policy, llama):
        logits = [row for _, row in zip(range(9), grow(llama, cache, first, valid), strict=False)]
        for _, row in zip(range(3), grow(llama, other, first, valid), strict=False):
            first = row.argmax(-1)
        tokens = decode(llama, other, first, 7)
    assert tokens[0].tolist() == [int(row.argmax()) for row in logits[2:]]
    assert [rows.tolist() for rows in held(cache)] == [rows.tolist() for rows in held(other)]


def test_a_single_token_needs_no_step(llama: Any) -> None:
    policy, ids = POLICIES["every 4"], models.prompt(1, N_PROMPT)
    cache, first = read(llama, policy, ids, torch.ones_like(ids))
    with attach(policy, llama):
        assert decode(llama, cache, first, 1).tolist() == [first.tolist()]
    assert cache.get_seq_length() == N_PROMPT


def test_ends_like_generate(llama: Any) -> None:
    policy, ids = POLICIES["every 4"], models.prompt(2, N_PROMPT)
    with attach(policy, llama):
        free = llama.generate(ids, max_new_tokens=40, **models.GREEDY)[:, N_PROMPT:]
        end = int(free[0, 5])
        stop = {**models.GREEDY, "eos_token_id": end}
        wanted = llama.generate(ids, max_new_tokens=40, **stop)[:, N_PROMPT:]
        cache, first = A2SFCache(policy), free[:, 0]
        with torch.no_grad():
            llama(ids, **{cache_argument(llama): cache})
        assert decode(llama, cache, first, 40, eos_token_id=end).tolist() == wanted.tolist()
    single, first = read(llama, policy, ids[:1], torch.ones_like(ids[:1]))
    with attach(policy, llama):
        tokens = decode(llama, single, first, 40, eos_token_id=end)
    assert tokens.tolist() == [free[0, : free[0].tolist().index(end) + 1].tolist()]
    assert single.get_seq_length() == N_PROMPT + 16, "asked after 16 steps, not after 39"


def test_capacity_is_what_the_policy_promises(wide: Any) -> None:  # noqa: F811
    ids = models.prompt(2, 40)
    token = 2 * 4 * 4  # keys and values, head size, bytes

    def slots(policy: Policy, steps: int) -> list[list[int]]:
        cache, first = read(wide, policy, ids, torch.ones_like(ids))
        with attach(policy, wide):
            decoder = Decoder(wide, cache, first, steps)
        sizes = [[p.keys.shape[1] * p.keys.shape[2] for p in layer.parts] for layer in decoder.layers]
        assert cache.nbytes() == 2 * token * sum(map(sum, sizes))  # two rows
        return sizes

    # (6, 20, 6, 8), (15, 4, 4, 4) and 4 x 12 tokens after a prompt of 40; fractions grow with 10 more.
    assert slots(ragged(wide, decode_every=3), 10) == [[2 * (6 + 3), 25 + 3, 10 + 3], [15 + 3, 3 * (4 + 3)], [4 * 15]]
    assert slots(ragged(wide), 10) == [[2 * 16, 30, 18], [25, 3 * 14], [4 * 22]]
    assert slots(ragged(wide, evict="step"), 1) == [[2 * 7, 21, 9], [16, 3 * 5], [4 * 13]]


class _NothingFromTheHost(TorchDispatchMode):
    """Fails when a tensor of the host with more than a scalar's content is an argument beside one of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs or {})):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                raise AssertionError(f"{func} was given a tensor of the host")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["every 4", "window", "streaming", "per head", "learned"])
def test_nothing_is_asked_of_the_host(wide: Any, name: str) -> None:  # noqa: F811
    """On the meta device tensors have no content: whoever asks for it gets an exception."""
    policy = ragged(wide, decode_every=4) if name == "per head" else POLICIES[name]
    if name == "learned":
        rule = Learned((2.0, inf), ((0.5, 0.2), (-0.2, 1.0)) * 2, (1.0, 0.0) * 2)
        policy = Policy((LayerPolicy(rule, 9), LayerPolicy(rule, (9, 4, 4, 9)), LayerPolicy(rule, 20)), decode_every=3)
    ids = models.prompt(2, N_PROMPT)
    cache, first = read(wide, policy, ids, models.padding(2, N_PROMPT, 6))
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(wide.config).eval().to("meta")
    with attach(policy, model):
        decoder = Decoder(model, cache, first, STEPS)
        _to_meta(decoder)
        decoder.evict()  # the first call is never captured, and may bring what later ones find there
        with _NothingFromTheHost():
            decoder.run_model()
            decoder.fold()
            decoder.evict()
        assert decoder.tokens.device.type == "meta"


def test_torch_compile_sees_one_graph_and_compiles_once(llama: Any) -> None:
    check_compiled(llama)


def check_compiled(llama: Any, steps: int = 9) -> None:
    """Steps as one graph each, compiled once, equal steps that are not compiled."""
    policy, ids = POLICIES["every 4"], models.prompt(2, N_PROMPT)
    valid = models.padding(2, N_PROMPT, 6)
    (cache, first), (other, _) = read(llama, policy, ids, valid), read(llama, policy, ids, valid)
    with attach(policy, llama), torch._dynamo.config.patch(error_on_recompile=True):
        mine, theirs = Decoder(llama, cache, first, steps), Decoder(llama, other, first, steps)
        step = torch.compile(mine.run_model, fullgraph=True, backend="eager")
        evict = torch.compile(lambda: mine.evict(), fullgraph=True, backend="eager")
        for count in range(1, steps + 1):
            step()
            if count % 4 == 0:
                evict()
            theirs.step()
            torch.testing.assert_close(mine.logits, theirs.logits, atol=1e-4, rtol=0)
        assert torch.equal(mine.tokens, theirs.tokens)


def _to_meta(decoder: Decoder) -> None:
    moved: dict[int, Tensor] = {}

    def move(thing: Any) -> None:
        for name, own in vars(thing).items():
            if isinstance(own, Tensor):
                setattr(thing, name, moved.setdefault(id(own), own.to("meta")))
            elif isinstance(own, tuple) and all(isinstance(each, Tensor) for each in own):
                setattr(thing, name, tuple(each.to("meta") for each in own))

    move(decoder)
    move(decoder._clock)
    for layer in decoder.layers:
        layer._heads = [heads.to("meta") if isinstance(heads, Tensor) else heads for heads in layer._heads]
        for part in layer.parts:
            move(part)
            move(part.slots)
            if part.slots.ring is not None:
                move(part.slots.ring)


def test_errors(llama: Any) -> None:
    policy, ids = POLICIES["every 4"], models.prompt(1, N_PROMPT)
    cache, first = read(llama, policy, ids, torch.ones_like(ids))
    with pytest.raises(A2SFError, match="needs an attached model"):
        decode(llama, cache, first, 5)
    with attach(policy, llama):
        with pytest.raises(A2SFError, match="has read a prompt"):
            decode(llama, A2SFCache(policy), first, 5)
        cache.layers[1].device = torch.device("meta")
        with pytest.raises(A2SFError, match=r"all layers on one device; use model.generate for a model on several"):
            Decoder(llama, cache, first, 1)
        cache.layers[1].device = cache.layers[0].device
        decoder = Decoder(llama, cache, first, 1)
        assert isinstance(cache.layers[0], SlotLayer)
        with pytest.raises(A2SFError, match="2 tokens came at once"), torch.no_grad():
            llama(ids[:, :2], **{cache_argument(llama): cache})
        with pytest.raises(A2SFError, match="a cache cannot be changed or forked while"):
            cache.batch_select_indices(torch.tensor([0]))
        decoder.step()
        with pytest.raises(A2SFError, match="room for 1 steps"):
            decoder.step()
        decoder.close()
        assert isinstance(cache.layers[0], A2SFLayer)
        with pytest.raises(A2SFError, match="has read a prompt"):
            decode(llama, A2SFCache(layers=decoder.layers), first, 5)
