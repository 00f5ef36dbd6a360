"""A pruned run must equal a full run in which exactly the dropped tokens are hidden, head by head."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from a2sf_core import A2SFCache, LayerPolicy, Policy, attach
from a2sf_core.cache import cache_nbytes, policy_layers
from a2sf_core.layers.ragged import RaggedLayer
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.switch import cache_argument

from . import models, reference

N_PROMPT, N_ANSWER = 30, 7

MIXED = (
    LayerPolicy(rule=Decay(8), budget=0.3, recent=2, sink=1),
    LayerPolicy(rule=Decay(inf), budget=9, recent=0.5),
    LayerPolicy(rule=Decay(0), budget=12),
)
POLICIES = {
    "prefill": Policy(MIXED),
    "prefill, decode every 3": Policy(MIXED, decode_every=3),
    "prefill, window": Policy(
        (LayerPolicy(rule=Window(4), budget=8, recent=4), LayerPolicy(), LayerPolicy(Decay(16.0), 0.5))
    ),
    "chunk of 8": Policy(MIXED, evict="chunk=8"),
    "chunk of 8, decode every 2": Policy(MIXED, evict="chunk=8", decode_every=2),
    "step": Policy(MIXED, evict="step"),
    "streaming": Policy.streaming_llm(3, 10, sink=3),
}


@torch.no_grad()
def run(
    model: Any,
    policy: Policy,
    ids: Tensor,
    valid: Tensor | None,
    splits: list[int],
    cut_after: int | None = None,
) -> Tensor:
    """Logits of all tokens, fed in forwards that end at `splits`, with a cut at `cut_after`."""
    valid = torch.ones_like(ids) if valid is None else valid
    cache = A2SFCache(policy)
    parts = []
    with attach(policy, model):
        for start, stop in zip([0, *splits], splits, strict=False):
            parts.append(
                model(
                    ids[:, start:stop],
                    attention_mask=valid[:, :stop],
                    position_ids=reference.positions(valid)[:, start:stop],
                    **{cache_argument(model): cache},
                ).logits
            )
            if stop == cut_after:
                cache.cut()
    return torch.cat(parts, dim=1)


def close(got: Tensor, wanted: Tensor, valid: Tensor | None = None) -> None:
    """Equal within 1e-4 wherever the token is not padding."""
    if valid is not None:
        got, wanted = got[valid.bool()], wanted[valid.bool()]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def token_splits() -> list[int]:
    return [N_PROMPT, *range(N_PROMPT + 1, N_PROMPT + N_ANSWER + 1)]


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", ["prefill", "chunk of 8"])
def test_decoding_after_eviction(model: Any, name: str, left: int) -> None:
    policy, ids = POLICIES[name], models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, left)
    wanted = reference.logits(model, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)
    close(run(model, policy, ids, valid, token_splits()), wanted, valid)
    full = reference.logits(model, Policy.full(3), reference.token_by_token(policy, N_PROMPT), ids, valid)
    assert (wanted - full)[:, N_PROMPT:].abs().max() > 0.01, "the eviction changes nothing, so this shows nothing"


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("prefill", "chunk of 8")])
def test_every_mode(llama: Any, name: str, left: int) -> None:
    policy, ids = POLICIES[name], models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, left)
    wanted = reference.logits(llama, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)
    close(run(llama, policy, ids, valid, token_splits()), wanted, valid)


@pytest.mark.parametrize("left", [0, 6], ids=["unpadded", "padded"])
def test_several_answer_tokens_at_once_after_cut(model: Any, left: int) -> None:
    policy, n = POLICIES["prefill"], N_PROMPT + N_ANSWER
    ids, valid = models.prompt(2, n), models.padding(2, n, left)
    wanted = reference.logits(model, policy, reference.token_by_token(policy, N_PROMPT), ids, valid)
    close(run(model, policy, ids, valid, [N_PROMPT, n], cut_after=N_PROMPT), wanted, valid)


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.9, 1.0])
def test_step_is_the_papers_procedure(family: str, alpha: float) -> None:
    model, ids = models.build(family, seed=3), models.prompt(1, 40)
    policy = Policy.a2sf(3, budget=9, alpha=alpha, evict="step")
    wanted = reference.logits(model, policy, reference.paper, ids)
    close(run(model, policy, ids, None, [28, *range(29, 41)]), wanted)


@pytest.mark.parametrize("name", ["prefill", "chunk of 8", "step", "prefill, window"])
@pytest.mark.parametrize("splits", [[16, 30], [7, 14, 21, 30], [3, 30]])
def test_prompt_pieces_do_not_matter(llama: Any, name: str, splits: list[int]) -> None:
    policy, ids = POLICIES[name], models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, 6)
    answer = token_splits()[1:]
    whole = run(llama, policy, ids, valid, token_splits())
    close(run(llama, policy, ids, valid, [*splits, *answer]), whole, valid)


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_padded_row_is_the_row_alone(llama: Any, name: str) -> None:
    policy, ids = POLICIES[name], models.prompt(2, N_PROMPT + N_ANSWER)
    valid = models.padding(2, N_PROMPT + N_ANSWER, 6)
    together = run(llama, policy, ids, valid, token_splits())
    alone = run(llama, policy, ids[:1, 6:], None, [end - 6 for end in token_splits()])
    close(together[:1, 6:], alone)
    close(together[1:], run(llama, policy, ids[1:], None, token_splits()))


def test_second_turn_reads_what_was_kept_and_is_cut_again(llama: Any) -> None:
    policy, ids = Policy.a2sf(3, budget=10, alpha=0.9), models.prompt(1, 50)
    cache = A2SFCache(policy)
    with attach(policy, llama), torch.no_grad():
        for start, stop in ((0, 30), (30, 31), (31, 32), (32, 44)):
            llama(ids[:, start:stop], **{cache_argument(llama): cache})
        held = cache.layers[0].positions[0, 0].tolist()
        assert len(held) == 10 + 14
        assert held[-14:] == list(range(30, 44))
        assert cache.get_seq_length() == 44
        llama(ids[:, 44:45], **{cache_argument(llama): cache})
    assert cache.layers[0].positions.shape[-1] == 10 + 1
    assert int(cache.layers[0].positions.max()) == 44


def test_scores_survive_a_turn(llama: Any) -> None:
    """Decoded queries are scored too: a second cut must equal naive cuts at 30 and 44."""
    policy, ids = Policy.a2sf(3, budget=10, alpha=0.9), models.prompt(1, 50)
    naive = Policy(policy.layers, evict="chunk=1000")

    def due_twice(*args: Any) -> Tensor:
        return reference.token_by_token(naive, 30)(*args)

    splits = [30, 31, 32, 44, *range(45, 51)]
    got = run(llama, policy, ids, None, splits)
    original = reference._is_due
    try:
        reference._is_due = lambda policy, t, *_: t in (29, 43)
        wanted = reference.logits(llama, naive, due_twice, ids)
    finally:
        reference._is_due = original
    close(got, wanted)


@pytest.mark.parametrize("chunk", [4, 8])
def test_chunk_mode_bounds_the_prompt(llama: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from a2sf_core.layers import whole as cache_layer

    peak = 0
    append = cache_layer.A2SFLayer.append

    def watched(self: Any, *args: Any) -> None:
        nonlocal peak
        append(self, *args)
        peak = max(peak, self.keys.shape[-2])

    monkeypatch.setattr(cache_layer.A2SFLayer, "append", watched)
    policy = Policy.a2sf(3, budget=8, alpha=0.9, evict=f"chunk={chunk}")
    run(llama, policy, models.prompt(1, 40), None, [40])
    assert peak <= 8 + chunk


@pytest.mark.parametrize("policy", [*MIXED, LayerPolicy(Window(4), 8, 4), LayerPolicy(Decay(16.0), (0.2, 0.5))])
def test_a_cut_without_padding_asks_the_device_for_nothing(policy: LayerPolicy) -> None:
    """On the meta device tensors have no content: whoever asks for it gets an exception. Layers cut one by one."""
    (layer,) = policy_layers(Policy((policy,)))
    n, shape = 40, (2, 2, 40, 8)
    with torch.device("meta"):
        keys, values, query = torch.empty(shape), torch.empty(shape), torch.empty(2, 4, 40, 8)
        layer.lazy_initialization(keys, values)
        parts = layer.groups() if isinstance(layer, RaggedLayer) else [(slice(None), layer)]
        for heads, part in parts:
            part.begin_forward(n)
            part.recent_queries.add(query[:, :2], None, 1.0, None)
            part.append(keys[:, heads], values[:, heads], None)
            if part.half_lives:
                part.add_scores(torch.empty(len(part.half_lives), *part.positions.shape), n)
            part.end_forward()
        layer.cut()
    budgets = policy.head_budget_tokens(n)
    kept = sum(budgets * 2 if len(budgets) == 1 else budgets)
    assert cache_nbytes(A2SFCache(layers=[layer])) == kept * 2 * 2 * 8 * 4  # both rows, keys and values, of 8 floats
