"""What is taken for granted of a model is tried at attach: once, and before anything is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

from a2sf_core import A2SFError, Policy, attach
from a2sf_core.switch import check_model

from . import models


@pytest.mark.parametrize("where", ["config", "generation_config"])
@torch.no_grad()
def test_settings_that_leave_no_cache_do_not_count_inside(where: str) -> None:
    model, plain = models.build("llama"), models.build("llama")
    getattr(model, where).use_cache = False
    model.generation_config.cache_implementation = "static"
    before = model.generation_config.to_dict()
    ids = models.prompt(1, 20)
    texts = []
    for each in (model, plain):
        with attach(Policy.h2o(3, 8), each):
            texts.append(each.generate(ids, max_new_tokens=5, **models.GREEDY).tolist())
            assert each(ids).cache.layers[0].keys.shape[2] == 20, "a plain forward has a cache too"
    assert texts[0] == texts[1]
    assert model.generation_config.to_dict() == before


def latent() -> Any:
    """A random DeepSeek-V2, which caches a latent that all heads share."""
    torch.manual_seed(0)
    config = t.DeepseekV2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=3,
    )  # fmt: skip
    return t.DeepseekV2ForCausalLM(config).eval()


def test_a_latent_cache_is_refused_with_a_sentence() -> None:
    model = latent()
    check_model(model)  # its shape gives no reason to refuse it
    refused = pytest.raises(A2SFError, match=r"DeepseekV2ForCausalLM does not run when it is attached")
    with refused, attach(Policy.full(3), model):
        pytest.fail("attached")
    assert model.config._attn_implementation == "sdpa"


class MaskOnly(t.MistralForCausalLM):
    """A family whose window is in its mask alone: its attention is not told of it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.forward = _without_window(layer.self_attn)


def _without_window(module: Any) -> Any:
    own = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        window = module.config.sliding_window
        module.config.sliding_window = None
        try:
            return own(*args, **kwargs)
        finally:
            module.config.sliding_window = window

    return forward


@pytest.mark.parametrize("window", [12, 40])
def test_a_window_in_the_mask_alone_is_found(window: int) -> None:
    torch.manual_seed(0)
    shared = {**models._GROUPED, "sliding_window": window}
    model = MaskOnly(t.MistralConfig(**shared)).eval()
    refused = pytest.raises(A2SFError, match="MaskOnly gives other logits when it is attached with its whole cache")
    with refused, attach(Policy.full(3), model):
        pytest.fail("attached")
    config = t.MistralConfig(**shared)
    with attach(Policy.full(3), t.MistralForCausalLM(config).eval()):
        assert config.sliding_window == window


def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = models.build("qwen2"), []
    with attach(Policy.full(3), model):
        pass
    monkeypatch.setattr(type(model), "forward", lambda *args, **kwargs: calls.append(1))
    with attach(Policy.full(3), model):
        assert not calls
