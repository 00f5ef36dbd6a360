"""Reading a prompt once, for a tuner: keys, values, and the scores for every half-life in the same pass."""

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
from a2sf_core.switch import cache_argument, check_model, switched


@dataclass(frozen=True)
class PromptLayer:
    """What one layer knows after the prompt.

    Attributes:
        keys, values: `[batch, kv_head, n, dim]`, in the model's dtype; slot i is logical position i.
        scores: float32 `[half_life + window, batch, kv_head, n]`: one per half-life, then one per window.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor


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
    half_lives: Sequence[float] = (),
    windows: Sequence[int] = (),
    chunk: int | None = None,
) -> Prompt:
    """Read a prompt once; the scores are the ones that the serving path computes.

    Args:
        model: a decoder-only transformers model, not attached.
        input_ids: int64 `[batch, n]`, left-padded if padded at all.
        attention_mask: `[batch, n]`, 0 for padding.
        half_lives: tokens; one score each.
        windows: queries; one SnapKV score each, the plain sum over so many last queries.
        chunk: tokens per forward, to bound the activations; None reads all at once.

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
    rules = range(model.config.get_text_config().num_hidden_layers)
    layers = [A2SFLayer(LayerPolicy(), half_lives=half_lives, windows=windows) for _ in rules]
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
    return Prompt([_observed(layer) for layer in layers], output.logits[:, -1], valid)


def _observed(layer: A2SFLayer) -> PromptLayer:
    scores = layer.scores
    if layer.recent_queries.windows:
        scores = torch.cat([scores, layer.recent_queries.scores(layer.keys, layer.positions, layer.seen)])
    return PromptLayer(layer.keys, layer.values, scores)
