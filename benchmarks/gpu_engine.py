"""What a study costs on a GPU: a Llama of a billion parameters, prompts of 8k tokens, 100 trials.

    python -m benchmarks.gpu_engine

Random weights and random tokens: they cost what trained ones do. Measured as in benchmarks/engine.py; the goal is a
study at most 1/50 of 100 evaluations that read every prompt again.
"""

from __future__ import annotations

import argparse
import json
import random

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.engine import measure
from benchmarks.gpu import need_gpu
from tuner.inputs.encoding import Encoded

# The shape of Llama 3.2 1B by its published config.
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
SHOWN = ("read", "trial", "floor", "study", "re-read", "trial/floor", "re-read/study")


def random_samples(count: int, n: int, answer: int, vocabulary: int) -> list[Encoded]:
    """Prompts of ``n`` random tokens with answers of ``answer``."""
    rng = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(length))

    return [Encoded(f"s{i}", ids(n), ids(answer), "", False, f"s{i}") for i in range(count)]


def main() -> None:
    """Parse the command line and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    options.cpu, options.no_generate = False, True
    need_gpu()
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16).eval()
    samples = random_samples(options.samples, options.tokens, options.answer, SHAPE["vocab_size"])
    with torch.no_grad():
        measure(
            model, samples[:2], options.tokens, argparse.Namespace(**{**vars(options), "trials": 2, "repeats": 1})
        )  # warm-up
        row = measure(model, samples, options.tokens, options)
    name = torch.cuda.get_device_name()
    table = Table(
        *SHOWN, title=f"{name}, {options.samples} prompts of {options.tokens} tokens, {options.trials} trials"
    )
    table.add_row(*(f"{row[key]:.3g}" for key in SHOWN))
    Console(width=120).print(table)
    print(json.dumps({"benchmark": "gpu_engine", "device": name, **vars(options), **row}))


if __name__ == "__main__":
    main()
