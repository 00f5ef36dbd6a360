"""A small model in a folder, and one finished run on it, for all tests that look at what a run leaves behind."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from studies.samples import bundled_samples
from studies.tokenizer import build
from tuner.inputs.models import load_model
from tuner.inputs.tasks import load_task
from tuner.reporting.result import Result
from tuner.run import tune
from tuner.settings import Settings
from tuner.watch import Progress

ROWS = [
    {"context": f"Line {i}. The lamp costs {i + 10} euros.", "question": "How much?", "answer": f"{i + 10} euros."}
    for i in range(14)
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build(30, "test")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The folder of a random Llama of two layers with two KV heads, and its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("small") / "small-model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(small_model: Path) -> tuple[Any, Any]:
    """Model and tokenizer, as a run loads them."""
    return load_model(str(small_model), "cpu")


@dataclass
class Recorded:
    """A watch that remembers what it was told: every step with its last (done, total)."""

    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def step(self, name: str) -> Progress:
        self.steps[name] = (0, 0)

        def progress(done: int, total: int) -> None:
            self.steps[name] = (done, total)

        return progress

    def say(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True)
class Finished:
    """A finished run, with what it was asked and what its watch was told."""

    settings: Settings
    result: Result
    watch: Recorded


def write_short_lists(path: Path) -> None:
    """14 short lists that the bundled model has learned to answer, so that there is something to lose."""
    spec = load_task("knowledge").samples
    assert spec is not None
    made = bundled_samples(spec.model_copy(update={"tokens": (64, 100), "seed": "test"}), 14)
    path.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in made))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The bundled model on data of its own."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "lists.jsonl"
    write_short_lists(data)
    settings = Settings("knowledge", 26, data=str(data), out=folder / "run", device="cpu", max_degradation=60.0)
    watch = Recorded()
    return Finished(settings, tune(settings, watch=watch), watch)
