"""What fixed budgets per KV head are worth, by reconstruction and by gradients, and what learned forgetting adds.

    python -m benchmarks.heads                              # SmolLM2 on the bundled facts, through its chat template
    python -m benchmarks.heads --data meetings.jsonl        # on data of your own

Prompts of 500 to 1,000 tokens, all with contexts of their own: some to learn from (at most eight of them budgets, for
reconstruction as many as it takes), others to measure on. Along the reference answers and along what the full cache
writes: nats per token over the full cache, with bootstrap intervals over the prompts, and the paired difference of the
mean KL to the best known method and to reconstruction with half-life 16, at the same budget.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from a2sf_core import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import ScoreRule
from benchmarks.lab import console, in_brackets, report
from studies.samples import Sample, bundled_samples
from tuner.choices import SMOLLM2
from tuner.inputs.data import load_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import Task, load_task
from tuner.judging.grading import Grader
from tuner.judging.intervals import paired_interval
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.search.allocation import as_share
from tuner.search.fisher import Fisher
from tuner.search.gradients import measure_fisher
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.profile_part import Part
from tuner.search.profiles import HALF_LIVES_TRIED
from tuner.search.reconstruction import RECENT, SINK, Reconstruction
from tuner.search.rereading import TwiceReader, measure_reconstruction, prompts_to_look_at
from tuner.watch import silent

TASK = Path(__file__).parent.parent / "studies" / "real" / "knowledge-chat.yaml"
BUDGETS = (0.1, 0.2, 0.4)
HEADS_16 = "reconstruction, half-life 16"
DRAWN = 400
"""Bundled samples to choose from, where no data is given."""


def with_budgets(shares: np.ndarray, rules: Sequence[ScoreRule]) -> Policy:
    """Shares `[layer, kv_head]` of the cache with a rule for each layer, recent tokens in proportion to each share."""
    layers = zip(rules, shares, strict=True)
    return Policy(tuple(LayerPolicy(rule, tuple(map(as_share, row)), RECENT, SINK) for rule, row in layers))


def per_head(profile: Fisher | Reconstruction, budget: float) -> Policy:
    """The profile's own policy: budgets per KV head, one half-life, recent tokens in proportion to a head's budget."""
    shares = profile.budgets(budget)
    return with_budgets(shares, [Decay(profile.half_life)] * len(shares))


def per_head_learned(profile: Fisher | Reconstruction, budget: float, learned: Sequence[ScoreRule]) -> Policy:
    """The same budgets with a rule for each layer."""
    return with_budgets(profile.budgets(budget), learned)


def by_prompt(profile: Fisher | Reconstruction, budget: float, learned: Sequence[ScoreRule]) -> Policy:
    """The same total, dealt out anew for every prompt by what `learned` rules are worth in nats."""
    return replace(per_head_learned(profile, budget, learned), by_prompt=True)


def methods(
    budget: float, n_layers: int, fisher: Fisher, reconstruction: Reconstruction, learned: Sequence[ScoreRule]
) -> dict[str, Policy]:
    """What is compared at one budget; the first four are known or keep all heads alike."""
    by_layer = replace(fisher, losses=np.broadcast_to(fisher.losses.mean(2, keepdims=True), fisher.losses.shape))
    alike = LayerPolicy(Decay(16.0), budget, RECENT, SINK)
    found = {
        "H2O": Policy.h2o(n_layers, budget),
        "SnapKV, window 16": Policy.snapkv(n_layers, budget),
        "TOVA": Policy.tova(n_layers, budget),
        "half-life 16, heads alike": Policy((alike,) * n_layers),
        "learned forgetting, heads alike": Policy(tuple(LayerPolicy(rule, budget, RECENT, SINK) for rule in learned)),
        "fisher per layer, half-life 16": per_head(by_layer, budget),
    }
    profiles: list[Fisher | Reconstruction] = [reconstruction, fisher]
    for profile in profiles:
        for half_life in HALF_LIVES_TRIED:
            own = replace(profile, half_life=half_life)
            found[f"{profile.kind}, half-life {half_life:g}"] = per_head(own, budget)
        found[f"{profile.kind}, learned forgetting"] = per_head_learned(profile, budget, learned)
    return found


def chosen(samples: Sequence[Encoded], tokens: tuple[int, int], count: int, seed: int) -> list[Encoded]:
    """`count` prompts of the wanted length, no two with the same context."""
    fits = {sample.context_key: sample for sample in samples if tokens[0] <= len(sample.prompt_ids) <= tokens[1]}
    at_hand = list(fits.values())
    return [at_hand[place] for place in np.random.default_rng(seed).permutation(len(at_hand))[:count]]


def figures(engine: Engine, budget: float, policies: dict[str, Policy], full: Losses) -> list[dict[str, Any]]:
    """One row of figures per method."""
    found = {name: engine.evaluate(policy) for name, policy in policies.items()}
    known = min(list(found)[:4], key=lambda name: float(found[name].kl.mean()))
    return [
        {
            "budget": budget,
            "method": name,
            "kept": float(losses.cache_fraction.mean()),
            "nll": paired_interval(losses.nll - full.nll, 0).to_list(),
            "reference_kl": paired_interval(losses.reference_kl, 0).to_list(),
            "own_kl": paired_interval(losses.own_kl, 0).to_list(),
            "kl_over_best_known": paired_interval(losses.kl - found[known].kl, 0).to_list(),
            "kl_over_reconstruction": paired_interval(losses.kl - found[HEADS_16].kl, 0).to_list(),
        }
        for name, losses in found.items()
    ]


def arguments(
    description: str | None, learn: int, learned: str, measure: int, tokens: tuple[int, int] = (500, 1000)
) -> argparse.Namespace:
    """The command line: which prompts, how many of them teach what is `learned`, and how many are measured."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--task", default=str(TASK))
    parser.add_argument("--data")
    parser.add_argument("--tokens", type=int, nargs=2, default=tokens)
    parser.add_argument("--learn", type=int, default=learn, help=f"prompts that {learned} learned from")
    parser.add_argument("--measure", type=int, default=measure)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def given_samples(task: Task, data: str | None) -> Sequence[Sample]:
    """To choose from: all of a file, or some that the task draws."""
    assert task.samples is not None
    return load_samples(data) if data else bundled_samples(task.samples, DRAWN)


def main() -> None:
    """Parse the command line and print one table."""
    options = arguments(__doc__, 24, "forgetting is", 32)
    model, tokenizer = load_model(options.model, "cpu")
    task = load_task(options.task)
    limit = max_tokens(model, tokenizer)
    samples = encode(given_samples(task, options.data), tokenizer, task, limit)
    some = chosen(samples, (options.tokens[0], options.tokens[1]), options.learn + options.measure, options.seed)
    learn, measure = some[: options.learn], some[options.learn :]
    ends = Grader.of(task, model, tokenizer).ends
    rows = prompts_to_look_at(learn, options.seed, math.inf)
    began = time.monotonic()
    reread = measure_reconstruction(TwiceReader.of(model), learn, rows, limit, Part(), silent)
    looked = time.monotonic()
    teacher = Engine(model, learn, ends=ends, learn_from=LEARNED_FROM)
    taught = time.monotonic()
    fisher = measure_fisher(teacher, rows, HALF_LIVES_TRIED, options.seed, Part(), silent)
    weighed = time.monotonic()
    learned = learned_rules(teacher, range(len(learn)), silent, options.seed)
    del teacher
    fitted = time.monotonic()
    engine = Engine(model, measure, ends=ends, own=learned)
    read = time.monotonic()
    full = engine.evaluate(Policy.full(engine.n_layers))
    title = (
        f"{len(measure)} prompts read, texts written in {read - fitted:.0f} s; {len(reread.rows)} others read twice "
        f"in {looked - began:.0f} s; {len(learn)} read in {taught - looked:.0f} s, gradients of {len(rows)} taken in "
        f"{weighed - taught:.0f} s, forgetting learned in {fitted - weighed:.0f} s; NLL of the full cache "
        f"{full.nll.mean():.2f}"
    )
    table = Table(
        "cache", "method", "NLL over full", "KL, reference", "KL, own text", "over best known", "over reconstruction",
        title=title,
    )  # fmt: skip
    for budget in BUDGETS:
        policies = methods(budget, engine.n_layers, fisher, reread.profile, learned)
        for row in figures(engine, budget, policies, full):
            names = ("nll", "reference_kl", "own_kl", "kl_over_best_known", "kl_over_reconstruction")
            table.add_row(f"{row['kept']:.1%}", row["method"], *(in_brackets(row[name], "+") for name in names))
            report("heads", row)
    console.print(table)


if __name__ == "__main__":
    main()
