"""One context, many questions: the context is read and pruned once, before any question is known.

    with config.attach(model):
        cache = read_context(model, context)  # int64 [1, n], pruned at its end
        for question in questions:
            ids = torch.cat([context, question], 1)
            output = model.generate(ids, cache=cache.fork(), max_new_tokens=20)

Questions and answers are read over what is kept, and kept whole themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from a2sf_core import attention
from a2sf_core.cache import A2SFCache
from a2sf_core.errors import A2SFError
from a2sf_core.switch import cache_argument


@torch.no_grad()
def read_context(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, chunk: int | None = None
) -> A2SFCache:
    """Read a context and prune it as the attached policy says: a sealed cache, to be forked for each question.

    Args:
        model: a transformers model inside `with attach(policy, model)` or `with config.attach(model)`.
        input_ids: int64 `[batch, n]`, left-padded if padded at all.
        attention_mask: `[batch, n]`, 0 for padding.
        chunk: tokens per forward, to bound the activations; None reads all at once.

    Raises:
        A2SFError: if the model is not attached, there is nothing to read, or `chunk` is less than 2.
    """
    if model.config._attn_implementation != attention.NAME:
        raise A2SFError("read_context needs an attached model; call it inside `with attach(policy, model):`.")
    n = input_ids.shape[1]
    if n == 0:
        raise A2SFError("the context has no tokens; read_context needs one or more.")
    if chunk is not None and chunk < 2:  # single tokens would pass for decoded ones
        raise A2SFError(f"chunk must be at least 2 tokens or None, not {chunk!r}.")
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    position_ids = (valid.cumsum(-1) - 1).clamp(min=0)  # [batch, n]
    cache: Any = None
    for start, stop in pieces(n, chunk or n):
        output = model(
            input_ids=input_ids[:, start:stop],
            attention_mask=valid[:, :stop],
            position_ids=position_ids[:, start:stop],
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(model): cache},
        )
        cache = output[cache_argument(model)]
    cache.seal()
    return cache


def pieces(n: int, size: int) -> list[tuple[int, int]]:
    """Starts and stops. The last piece is never a single token after others, which would pass for a decoded one."""
    starts = list(range(0, n, size))
    if n - starts[-1] == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))
