"""How well a model answers the bundled tasks with its full cache: ``python -m studies.measure --model DIR``.

The figures of the model card. Samples have their own seed, so neither training nor the studies have seen them.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from studies.samples import Sample, SampleSpec, bundled_samples

LENGTHS = (128, 256, 512, 1024, 1900)
SPECS: dict[str, dict[str, Any]] = {
    "summarisation": {"kinds": ("summary",)},
    "chat": {"hard_share": 0.8},
    "knowledge": {},
}


@torch.no_grad()
def answer_accuracy(model: Any, tokenizer: Any, sample: Sample) -> tuple[float, bool]:
    """Share of answer tokens (with the end token) whose top choice is right, and whether all are; teacher-forced."""
    prompt = tokenizer(f"{sample.context}\nQuestion: {sample.question}\nAnswer:").input_ids
    answer = [*tokenizer(sample.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]  # [token, vocab]
    right = logits.argmax(-1) == torch.tensor(answer)
    return right.float().mean().item(), bool(right.all())


def measure(model: Any, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """One row per task and length: mean token accuracy with its standard error, and exact answers."""
    rows = []
    for task, fields in SPECS.items():
        for length in LENGTHS:
            spec = SampleSpec(
                scene=task, seed="model-card-1", tokens=(length, length), search=2, select=2, report=2, **fields
            )
            scores = [answer_accuracy(model, tokenizer, sample) for sample in bundled_samples(spec, count)]
            accuracy = torch.tensor([score for score, _ in scores])
            rows.append(
                {
                    "task": task,
                    "tokens": length,
                    "samples": count,
                    "token_accuracy": round(accuracy.mean().item(), 4),
                    "standard_error": round(accuracy.std().item() / math.sqrt(count), 4),
                    "exact_answers": round(sum(exact for _, exact in scores) / count, 3),
                }
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "reference_model")
    parser.add_argument("--samples", type=int, default=100)
    arguments = parser.parse_args()
    loaded = AutoModelForCausalLM.from_pretrained(arguments.model).eval()
    for row in measure(loaded, AutoTokenizer.from_pretrained(arguments.model), arguments.samples):
        print(json.dumps(row))
