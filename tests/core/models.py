"""Small random models of every supported family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

VOCAB = 97
LAYERS = 3

# Wide enough weights that attention is far from uniform, so that dropping a token shows.
_COMMON = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_SHARED = {**_COMMON, "intermediate_size": 48, "initializer_range": 0.25, "max_position_embeddings": 256}
_GROUPED = {**_SHARED, "num_key_value_heads": 2}
_OPT = {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 256, "init_std": 0.25}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_GROUPED)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**_OPT)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_GROUPED, sliding_window=None)),
    "mistral-sliding": lambda: t.MistralForCausalLM(t.MistralConfig(**_GROUPED, sliding_window=12)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_GROUPED)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_GROUPED, head_dim=8)),
    "gpt-neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**_SHARED)),
}


def build(family: str, seed: int = 0) -> Any:
    """A random float32 model in eval mode."""
    torch.manual_seed(seed)
    return FAMILIES[family]().eval()


def prompt(batch: int, n: int, seed: int = 1) -> torch.Tensor:
    """Random token ids `[batch, n]` that hold no padding or end token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCAB, (batch, n), generator=generator, device="cpu").to(torch.get_default_device())


def padding(batch: int, n: int, left: int) -> torch.Tensor:
    """Attention mask `[batch, n]`: the first row starts with `left` padding tokens."""
    mask = torch.ones(batch, n, dtype=torch.long)
    mask[0, :left] = 0
    return mask


GREEDY = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
