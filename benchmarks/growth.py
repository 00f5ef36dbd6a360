"""What it is worth that budgets grow slower than the prompt: the same total for all prompts, dealt out by their length.

    python -m benchmarks.growth                                  # SmolLM2 on the bundled facts, 150 to 1,200 tokens
    python -m benchmarks.growth --data meetings.jsonl            # on data of your own

Budgets from gradients and forgetting learned in nats from some prompts, others measured. Tokens kept go with the
prompt's length to a power, from 1 (the same share of every prompt) down; the share of the longest is what makes the
total over the measured prompts the same. Mean KL of both texts, and its ratio to that of the same share for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rich.table import Table

from a2sf_core import Policy
from a2sf_core.growth import Growth
from a2sf_core.rules.base import ScoreRule
from benchmarks.heads import arguments, by_prompt, chosen, given_samples, per_head_learned
from benchmarks.lab import console, in_brackets, report
from benchmarks.peers_report import ratio_interval
from tuner.inputs.encoding import encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader
from tuner.measuring.engine import Engine
from tuner.measuring.losses import share_kept
from tuner.search.fisher import Fisher
from tuner.search.gradients import measure_fisher
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.profile_part import Part
from tuner.search.rereading import prompts_to_look_at
from tuner.watch import silent

BUDGETS = (0.05, 0.1, 0.2, 0.4)
POWERS = (1.0, 0.8, 0.7, 0.6, 0.5, 0.3)
_HALF_LIFE = 16.0


Make = Callable[[Fisher, float, Sequence[ScoreRule]], Policy]


def growing(
    make: Make, fisher: Fisher, learned: Sequence[ScoreRule], growth: Growth, budget: float, tokens: np.ndarray
) -> Policy:
    """What `make` makes for the longest, growing, of the share that keeps `budget` of prompts of `tokens` in all."""
    low, high = 0.001, 1.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        policy = make(fisher, middle, learned)
        policy = replace(policy, layers=tuple(replace(layer, growth=growth) for layer in policy.layers))
        if share_kept(policy, tokens) > budget:
            high = middle
        else:
            low = middle
    return policy


def main() -> None:
    """Parse the command line and print one table."""
    options = arguments(__doc__, 24, "forgetting is", 24, tokens=(150, 1200))
    model, tokenizer = load_model(options.model, "cpu")
    task = load_task(options.task)
    samples = encode(given_samples(task, options.data), tokenizer, task, max_tokens(model, tokenizer))
    some = chosen(samples, (options.tokens[0], options.tokens[1]), options.learn + options.measure, options.seed)
    learn, measure = some[: options.learn], some[options.learn :]
    ends = Grader.of(task, model, tokenizer).ends
    teacher = Engine(model, learn, ends=ends, learn_from=LEARNED_FROM)
    rows = prompts_to_look_at(learn, options.seed, math.inf)
    fisher = measure_fisher(teacher, rows, (_HALF_LIFE,), options.seed, Part(), silent)
    learned = learned_rules(teacher, range(len(learn)), silent, options.seed)
    del teacher
    engine = Engine(model, measure, ends=ends, own=learned)
    lengths = [len(sample.prompt_ids) for sample in learn]
    table = Table("budgets", "cache", *(f"n^{power:g}" for power in POWERS))
    makes: dict[str, Make] = {"fixed": per_head_learned, "by the prompt": by_prompt}
    for name, make in makes.items():
        for budget in BUDGETS:
            kl: list[np.ndarray] = []
            for power in POWERS:
                growth = Growth(power, min(lengths), max(lengths))
                policy = growing(make, fisher, learned, growth, budget, engine.n_tokens)
                kl.append(engine.evaluate(policy).kl)
            ratios = [ratio_interval(each, kl[0], engine.contexts) for each in kl[1:]]
            table.add_row(name, f"{budget:.0%}", f"{kl[0].mean():.4f}", *map(in_brackets, ratios))
            worst = [float(np.quantile(each, 0.9) / np.quantile(kl[0], 0.9)) for each in kl]
            report("growth", {"budgets": name, "budget": budget, "ratios": ratios, "ninth_tenth": worst})
    console.print(table)


if __name__ == "__main__":
    main()
