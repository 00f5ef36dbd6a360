"""Attaching leaves the model as it was and says what it cannot serve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

from a2sf_core import A2SFError, Policy, attach

from . import models


def state(model: Any) -> tuple[Any, ...]:
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    return model.config._attn_implementation, hooks, model.generation_config.to_dict()


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_model_is_restored_even_after_an_exception(before: str) -> None:
    model = models.build("llama")
    model.set_attn_implementation(before)
    was = state(model)

    def use_and_fail() -> None:
        with attach(Policy.h2o(3, 8), model):
            model.generate(models.prompt(1, 20), max_new_tokens=2, **models.GREEDY)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        use_and_fail()
    assert state(model) == was
    assert state(model)[0] == before


@torch.no_grad()
def test_a_failed_forward_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from a2sf_core.layers import whole as cache_layer

    model, policy = models.build("llama"), Policy.h2o(3, 8)
    with attach(policy, model):
        with monkeypatch.context() as patch:
            patch.setattr(cache_layer.A2SFLayer, "append", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(models.prompt(1, 20))
        model(models.prompt(1, 20))


@torch.no_grad()
def test_nested_attach_is_refused() -> None:
    model = models.build("llama")
    with attach(Policy.full(3), model):
        with pytest.raises(A2SFError, match="attached to a policy already"), attach(Policy.full(3), model):
            pass
        model(models.prompt(1, 5))


def test_number_of_layers_must_agree() -> None:
    with (
        pytest.raises(A2SFError, match="policy has 4 layers but the model has 3"),
        attach(Policy.full(4), models.build("opt")),
    ):
        pass


def test_encoder_decoders_and_other_things_are_refused() -> None:
    t5 = t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    with pytest.raises(A2SFError, match="encoder-decoder"), attach(Policy.full(1), t5):
        pass
    with (
        pytest.raises(A2SFError, match="needs a transformers model, not Linear"),
        attach(Policy.full(1), torch.nn.Linear(2, 2)),
    ):
        pass


def test_an_adapter_around_a_model_is_told_what_to_give() -> None:
    class PeftModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.peft_config: dict[str, Any] = {}

        def get_base_model(self) -> Any:
            return models.build("llama")

    with pytest.raises(A2SFError, match=r"give model\.get_base_model\(\)"), attach(Policy.full(3), PeftModel()):
        pass


def test_attention_without_layer_idx_is_refused() -> None:
    model = models.build("llama")
    del model.model.layers[1].self_attn.layer_idx
    with pytest.raises(A2SFError, match="do not carry a layer_idx"), attach(Policy.full(3), model):
        pass


@torch.no_grad()
def test_soft_capping_and_dropout_are_refused() -> None:
    gemma = t.Gemma2ForCausalLM(
        t.Gemma2Config(
            vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        )
    ).eval()  # fmt: skip
    with pytest.raises(A2SFError, match="logit soft-capping"), attach(Policy.full(2), gemma):
        pytest.fail("attached")
    llama = models.build("llama").train()
    llama.config.attention_dropout = 0.1
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with attach(Policy.full(3), llama), pytest.raises(A2SFError, match=r"model\.eval"):
        llama(models.prompt(1, 5))


def test_gradients_are_refused_rather_than_wrong() -> None:
    model = models.build("llama")
    with attach(Policy.h2o(3, 8), model), pytest.raises(A2SFError, match=r"torch\.no_grad"):
        model(models.prompt(1, 20))
