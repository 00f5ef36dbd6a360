"""One read of the prompt must tell all that the serving path would compute."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch

from a2sf_core import A2SFCache, A2SFError, Policy, attach
from a2sf_core.observe import read_prompt
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.selection import kept_from_order, order_by_score
from a2sf_core.switch import cache_argument

from . import models, reference

HALF_LIVES = (0.0, 4.0, inf)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("left", [0, 6])
def test_kept_tokens_are_those_of_the_serving_path(model: Any, left: int, chunk: int | None) -> None:
    n, ids, valid = 30, models.prompt(2, 30), models.padding(2, 30, left)
    prompt = read_prompt(model, ids, valid, (*map(Decay, HALF_LIVES), *map(Window, (3, 8))), chunk=chunk)
    assert (prompt.valid == valid.bool()).all()
    served = [
        *(Policy.uniform(3, rule=Decay(h), budget=0.4, recent=0.25, sink=1) for h in HALF_LIVES),
        *(Policy.snapkv(3, 10, window) for window in (3, 8)),
    ]
    for g, policy in enumerate(served):
        cache, rule = A2SFCache(policy), policy.layers[0]
        with attach(policy, model), torch.no_grad():
            output = model(
                ids,
                attention_mask=valid,
                position_ids=reference.positions(valid),
                **{cache_argument(model): cache},
            )
        torch.testing.assert_close(prompt.logits, output.logits[:, -1], atol=1e-4, rtol=0)
        cache.cut()
        budget = torch.tensor([[rule.budget_tokens(int(m))] for m in valid.sum(-1)])
        recent = torch.tensor([[rule.recent_tokens(int(b))] for b in budget])
        for layer, kept in zip(prompt.layers, cache.layers, strict=True):
            order = order_by_score(layer.scores[g], valid.bool()[:, None, :])
            slots = kept_from_order(order, valid.sum(-1)[:, None], budget, rule.sink, recent)
            assert torch.equal(slots, kept.positions)
            assert layer.keys.shape == layer.values.shape == (2, kept.keys.shape[1], n, 8)
            assert layer.scores.shape == (5, 2, kept.keys.shape[1], n)


def test_scores_are_those_of_the_matrix(llama: Any) -> None:
    """With full attention the scores of layer 0 follow from its own queries and keys alone."""
    caught: dict[str, Any] = {}
    module = llama.model.layers[0].self_attn
    ids = models.prompt(1, 40)
    with torch.no_grad():
        hidden = llama.model.layers[0].input_layernorm(llama.model.embed_tokens(ids))
        cos, sin = llama.model.rotary_emb(hidden, torch.arange(40)[None])
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        shape = (1, 40, -1, 8)
        q, k = (p(hidden).view(shape).transpose(1, 2) for p in (module.q_proj, module.k_proj))
        caught["q"], caught["k"] = apply_rotary_pos_emb(q, k, cos, sin)
    matrix = reference.score_matrix(caught["q"], caught["k"], module.scaling, torch.arange(40).expand(1, 2, 40), 0)
    prompt = read_prompt(llama, ids, rules=list(map(Decay, HALF_LIVES)))
    for g, half_life in enumerate(HALF_LIVES):
        wanted = reference.scores(matrix, half_life).float()
        torch.testing.assert_close(prompt.layers[0].scores[g], wanted, atol=1e-4, rtol=1e-4)


def test_attached_models_and_bad_chunks_are_refused(llama: Any) -> None:
    with attach(Policy.full(3), llama), pytest.raises(A2SFError, match="attached"):
        read_prompt(llama, models.prompt(1, 5))
    with pytest.raises(A2SFError, match="chunk must be"):
        read_prompt(llama, models.prompt(1, 5), chunk=0)
    assert llama.config._attn_implementation == "sdpa"
