"""What the attached model writes offline, one prompt at a time: what every served text is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from a2sf_core import Policy, attach


def written(model: Any, policy: Policy, ids: Sequence[int], most: int, **sampling: Any) -> list[int]:
    """The tokens that `generate` adds, greedily or with `temperature`, `top_p` and `seed`."""
    seed = sampling.pop("seed", None)
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=bool(sampling), top_k=0, eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=0, **sampling,
    )  # fmt: skip
    with attach(policy, model), torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        prompt = torch.tensor([list(ids)])
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return [int(token) for token in output[0, len(ids) :]]


def written_text(reference: tuple[Any, Any], policy: Policy, ids: Sequence[int], most: int, **sampling: Any) -> str:
    """The same as text; `reference` is the model and its tokenizer."""
    model, tokenizer = reference
    return str(tokenizer.decode(written(model, policy, ids, most, **sampling), skip_special_tokens=True))
