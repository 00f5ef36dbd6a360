"""Small random models and samples for the tuner's tests."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig, MistralConfig, OPTConfig

from tuner.inputs.encoding import Encoded
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder

VOCABULARY = 97
GROUPED = {"llama": LlamaConfig, "mistral": MistralConfig, "granite": GraniteConfig}


def tiny(kind: str, n_layers: int = 3, **special: Any) -> Any:
    """A random "opt" (4 heads), or one of `GROUPED` (4 query heads, 2 KV heads); `special` are settings of its own."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": n_layers, "num_attention_heads": 4}
    config = (
        GROUPED[kind](**common, intermediate_size=64, num_key_value_heads=2, initializer_range=0.3, **special)
        if kind in GROUPED
        else OPTConfig(**common, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128, init_std=0.3)
    )
    return AutoModelForCausalLM.from_config(config).eval()


def samples(count: int, longest: int = 60) -> list[Encoded]:
    """Random prompts of 12 to ``longest`` tokens with answers of 1 to 6."""
    rng = random.Random(7)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, VOCABULARY) for _ in range(n))

    return [
        Encoded(f"s{i}", ids(rng.randint(12, longest)), ids(rng.randint(1, 6)), f"answer {i}", False, f"s{i}")
        for i in range(count)
    ]


def holder_of(engine: Engine) -> Holder:
    """What holds the prompts of an engine of one process."""
    [holder] = engine.everywhere(lambda holder: holder)
    return holder
