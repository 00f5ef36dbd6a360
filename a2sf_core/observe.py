"""Reading a prompt once, for a tuner: keys, values, and what many rules rank the tokens by, in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2sf_core.cache import A2SFCache
from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.rules.base import ScoreRule
from a2sf_core.switch import cache_argument, check_model, switched


@dataclass(frozen=True)
class PromptLayer:
    """What one layer knows after the prompt.

    Attributes:
        keys, values: `[batch, kv_head, n, dim]`, in the model's dtype; slot i is logical position i.
        scores: float32 `[rule, batch, kv_head, n]`: what each rule ranks the tokens by.
        worth: float32 `[1, batch, kv_head, n]`, in nats, by the layer's own rule; `[0, ...]` where it has none that
            compares.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    worth: Tensor


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read once with full attention.

    Attributes:
        layers: one `PromptLayer` per decoder layer.
        logits: `[batch, vocab]` of the last position: they predict the first answer token.
        valid: bool `[batch, n]`, False for padding.
    """

    layers: list[PromptLayer]
    logits: Tensor
    valid: Tensor


@torch.no_grad()
def read_prompt(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    rules: Sequence[ScoreRule] = (),
    chunk: int | None = None,
    own: Sequence[ScoreRule] = (),
) -> Prompt:
    """Read a prompt once; the scores are the ones that the serving path computes.

    Args:
        model: a decoder-only transformers model, not attached.
        input_ids: int64 `[batch, n]`, left-padded if padded at all.
        attention_mask: `[batch, n]`, 0 for padding.
        rules: score rules; all that they need is gathered in the one pass.
        chunk: tokens per forward, to bound the activations; None reads all at once.
        own: one rule more for each layer, whose scores come last; or none.

    Raises:
        A2SFError: if the model cannot be served or is attached.
    """
    check_model(model)
    if chunk is not None and chunk < 1:
        raise A2SFError(f"chunk must be at least 1 token or None, not {chunk!r}.")
    n = input_ids.shape[1]
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    # Positions count valid tokens, as generate has it; OPT would do so itself, most models would not.
    position_ids = (valid.long().cumsum(-1) - 1).clamp(min=0)  # [batch, n]
    n_layers: int = model.config.get_text_config().num_hidden_layers
    owned = [tuple(own[layer : layer + 1]) for layer in range(n_layers)]
    layers = [A2SFLayer(LayerPolicy(), observes=(*rules, *each)) for each in owned]
    cache = A2SFCache(layers=layers)
    size = n if chunk is None else chunk
    with switched(model):
        for start in range(0, n, size):
            stop = min(start + size, n)
            output = model(
                input_ids[:, start:stop],
                attention_mask=valid[:, :stop].long(),
                position_ids=position_ids[:, start:stop],
                use_cache=True,
                logits_to_keep=1,
                **{cache_argument(model): cache},
            )
    found = [_observed(layer, rules, each) for layer, each in zip(layers, owned, strict=True)]
    return Prompt(found, output.logits[:, -1], valid)


def _observed(layer: A2SFLayer, rules: Sequence[ScoreRule], own: Sequence[ScoreRule]) -> PromptLayer:
    ranks = [rule.rank(layer) for rule in (*rules, *own)]
    worth = [rule.worth(layer) for rule in own if rule.compares]
    nothing = layer.scores.new_zeros(0, *layer.positions.shape)  # [0, batch, kv_head, n]
    return PromptLayer(
        layer.keys, layer.values, *(torch.stack(found) if found else nothing for found in (ranks, worth))
    )
