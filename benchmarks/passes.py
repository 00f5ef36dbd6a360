"""What learned forgetting costs in the pass over a prompt, and what lighter answers cost a trial, on a real model.

    python -m benchmarks.passes                     # SmolLM2, one thread, 1,024 tokens
    python -m benchmarks.passes --tokens 512 --repeats 5

The pass: the model attached with one half-life, with the learned rule's six and with the 24 half-lives of the tuner's
bank, beside the model as it is. The trial: a policy measured along both texts of bundled samples, with the full cache's
log-probabilities held, and made again of last hidden states. CPU seconds, the fastest of some turns, and ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from a2sf_core import A2SFCache, LayerPolicy, Policy, attach
from a2sf_core.observe import read_prompt
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.learned import Learned
from a2sf_core.shape import n_kv_heads
from benchmarks.heads import TASK
from benchmarks.lab import console, report
from benchmarks.scoring import fastest
from studies.samples import bundled_samples
from tuner.choices import SMOLLM2
from tuner.inputs.encoding import encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine
from tuner.measuring.store import nbytes
from tuner.search.learning import LEARNED_FROM

LEARNED = "learned forgetting, six half-lives"
BANK = "24 half-lives"
BUDGET, SAMPLES = 0.2, 4


def learned(model: Any) -> Policy:
    """A policy under the learned rule; its figures do not matter here, only what they cost."""
    text = model.config.get_text_config()
    heads = n_kv_heads(text)
    rule = Learned(LEARNED_FROM, ((0.3,) * len(LEARNED_FROM),) * heads, (0.5,) * heads)
    return Policy((LayerPolicy(rule, BUDGET, 0.25, 4),) * text.num_hidden_layers)


@torch.no_grad()
def pass_over_a_prompt(model: Any, tokens: int, repeats: int) -> dict[str, float]:
    """CPU seconds of the fastest pass over `tokens` random tokens, by what is gathered."""
    ids = torch.randint(5, model.config.get_text_config().vocab_size, (1, tokens))
    one = Policy.uniform(model.config.get_text_config().num_hidden_layers, rule=Decay(16.0), budget=BUDGET)

    def attached(policy: Policy) -> None:
        cache = A2SFCache(policy)
        with attach(policy, model):
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.cut()

    runs: dict[str, Callable[[], object]] = {
        "the model as it is": lambda: model(ids, use_cache=True, logits_to_keep=1),
        "attached, one half-life": lambda: attached(one),
        f"attached, {LEARNED}": lambda: attached(learned(model)),
        f"read for the tuner, {BANK}": lambda: read_prompt(model, ids, None, [Decay(each) for each in HALF_LIVES]),
    }
    return {name: cpu for name, (_, cpu) in zip(runs, fastest(list(runs.values()), repeats), strict=True)}


def trial(model: Any, tokenizer: Any, repeats: int) -> tuple[dict[str, float], dict[str, int]]:
    """CPU seconds of a policy on all samples, and what they hold in bytes, by how answers are held."""
    task = load_task(str(TASK))
    assert task.samples is not None
    grader = Grader.of(task, model, tokenizer)
    samples = encode(bundled_samples(task.samples, SAMPLES), tokenizer, task, max_tokens(model, tokenizer))
    engine = Engine(model, list(samples), ends=grader.ends)
    policies = iter(Policy.h2o(engine.n_layers, BUDGET + 0.001 * i) for i in range(10**6))
    [holder] = engine.everywhere(lambda holder: holder)
    bytes_held = {"held": sum(nbytes(block) for _, block in holder.blocks())}
    whole = fastest([lambda: engine.evaluate(next(policies))], repeats)
    holder.lighten()
    bytes_held["made again"] = sum(nbytes(block) for _, block in holder.blocks())
    light = fastest([lambda: engine.evaluate(next(policies))], repeats)
    return {"held": whole[0][1], "made again": light[0][1]}, bytes_held


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model, "cpu")
    passes = pass_over_a_prompt(model, options.tokens, options.repeats)
    table = Table(f"pass over {options.tokens} tokens", "CPU seconds", f"over {BANK}")
    for name, seconds in passes.items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / list(passes.values())[-1]:.2f}")
    console.print(table)
    trials, held = trial(model, tokenizer, options.repeats)
    table = Table(f"a policy on {SAMPLES} samples", "CPU seconds", "over held", "MB held")
    for name, seconds in trials.items():
        table.add_row(f"log-probabilities {name}", f"{seconds:.2f}", f"{seconds / trials['held']:.2f}",
                      f"{held[name] / 1e6:.0f}")  # fmt: skip
    console.print(table)
    report("passes", {"pass": passes, "trial": trials, "bytes": held})


if __name__ == "__main__":
    main()
