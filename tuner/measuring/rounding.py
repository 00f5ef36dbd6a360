"""Whether a quantised model rounds what passes through it, so that it must be proven by really running it attached.

Gathering reads an answer in one go and many rows together, serving reads it token by token: the last digits differ, as
sums are made in another order. Kernels that round what they are given make more of it (docs/large-models.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from a2sf_core.placement import input_device

NUDGE = 1e-6
"""Change of the embeddings, as a share of each."""
TOLERANCE = 1e-4
"""Change of the logits, as a share of the largest, beyond which a model rounds: float32 stays far below."""
_TOKENS = 64


@torch.no_grad()
def change_of_logits(model: Any) -> float:
    """By what share of the largest logit they change if all embeddings of a short text change by `NUDGE`."""
    embed = model.get_input_embeddings()
    ids = torch.arange(_TOKENS, device=input_device(model))[None] * 7 % embed.weight.shape[0]  # [1, token]
    before = embed(ids)  # [1, token, width]
    sign = 1 - 2 * (torch.arange(before.numel(), device=before.device).view_as(before) % 2)
    after = (before * (1 + NUDGE * sign)).to(before.dtype)  # bfloat16 does not see it: there all rounds, in serving too
    logits, nudged = (model(inputs_embeds=each).logits.float() for each in (before, after))
    return float((logits - nudged).abs().max() / logits.abs().max())


def must_run_attached(model: Any, say: Callable[[str], None]) -> bool:
    """True if a proof must run the attached model, which is said then; only quantised models are tried."""
    if not getattr(model, "is_quantized", False) or (change := change_of_logits(model)) <= TOLERANCE:
        return False
    say(
        "These quantised weights round what passes through them (a millionth more or less at the input changes logits "
        f"by {change:.2%}), and otherwise when tokens come one by one, as in serving: the report samples are measured "
        "by really running the attached model, which takes longer."
    )
    return True
