"""What fixed budgets per KV head, learned by reading a few prompts twice, are worth on a real model.

    python -m benchmarks.heads                              # SmolLM2 on the bundled facts, through its chat template
    python -m benchmarks.heads --data meetings.jsonl        # on data of your own

Prompts of 500 to 1,000 tokens, all with contexts of their own: eight to learn from (as many of them as it takes), the
others to measure on. Along the reference answers: nats per token over the full cache, with bootstrap intervals over the
prompts, and the paired difference in KL to the best known method at the same budget.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from a2sf_core import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from benchmarks.lab import console, report
from studies.samples import bundled_samples
from tuner.choices import SMOLLM2
from tuner.inputs.data import load_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.intervals import paired_interval
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.search.allocation import as_share
from tuner.search.profile_part import Part
from tuner.search.reconstruction import RECENT, SINK, Reconstruction
from tuner.search.rereading import MOST_PROMPTS, measure_reconstruction

TASK = Path(__file__).parent.parent / "studies" / "real" / "knowledge-chat.yaml"
BUDGETS = (0.1, 0.2, 0.4)
DRAWN = 400
"""Bundled samples to choose from, where no data is given."""


def per_head(profile: Reconstruction, budget: float) -> Policy:
    """The profile's own policy: budgets per KV head, one half-life, recent tokens in proportion to a head's budget."""
    rule = Decay(profile.half_life)
    rows = profile.budgets(budget)
    return Policy(tuple(LayerPolicy(rule, tuple(map(as_share, row)), RECENT, SINK) for row in rows))


def methods(budget: float, n_layers: int, profile: Reconstruction) -> dict[str, Policy]:
    """What is compared at one budget; the first four are known or keep all heads alike."""
    by_layer = replace(profile, kept=np.broadcast_to(profile.kept.mean(-1, keepdims=True), profile.kept.shape))
    alike = {"rule": Decay(16.0), "budget": budget, "recent": RECENT, "sink": SINK}
    return {
        "H2O": Policy.h2o(n_layers, budget),
        "SnapKV, window 16": Policy.snapkv(n_layers, budget),
        "TOVA": Policy.tova(n_layers, budget),
        "half-life 16, heads alike": Policy.uniform(n_layers, **alike),
        "budgets per layer, half-life 16": per_head(by_layer, budget),
        "budgets per head, half-life 16": per_head(profile, budget),
        "budgets per head, half-life 64": per_head(replace(profile, half_life=64.0), budget),
        "budgets per head, half-life 256": per_head(replace(profile, half_life=256.0), budget),
    }


def chosen(samples: Sequence[Encoded], tokens: tuple[int, int], count: int, seed: int) -> list[Encoded]:
    """`count` prompts of the wanted length, no two with the same context."""
    fits = {sample.context_key: sample for sample in samples if tokens[0] <= len(sample.prompt_ids) <= tokens[1]}
    at_hand = list(fits.values())
    return [at_hand[place] for place in np.random.default_rng(seed).permutation(len(at_hand))[:count]]


def rows(engine: Engine, budget: float, profile: Reconstruction, full: Losses) -> list[dict[str, Any]]:
    """One row of figures per method."""
    found = {name: engine.evaluate(policy) for name, policy in methods(budget, engine.n_layers, profile).items()}
    known = min(list(found)[:4], key=lambda name: float(found[name].kl.mean()))
    return [
        {
            "budget": budget,
            "method": name,
            "kept": float(losses.cache_fraction.mean()),
            "nll": paired_interval(losses.nll - full.nll, 0).to_list(),
            "kl": paired_interval(losses.kl, 0).to_list(),
            "kl_over_best_known": paired_interval(losses.kl - found[known].kl, 0).to_list(),
            "changed": float(losses.changed.mean()),
        }
        for name, losses in found.items()
    ]


def _interval(found: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--task", default=str(TASK))
    parser.add_argument("--data")
    parser.add_argument("--tokens", type=int, nargs=2, default=(500, 1000))
    parser.add_argument("--measure", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, tokenizer = load_model(options.model, "cpu")
    task = load_task(options.task)
    assert task.samples is not None
    given = load_samples(options.data) if options.data else bundled_samples(task.samples, DRAWN)
    limit = max_tokens(model, tokenizer)
    samples = encode(given, tokenizer, task, limit)
    some = chosen(samples, (options.tokens[0], options.tokens[1]), MOST_PROMPTS + options.measure, options.seed)
    learn, measure = some[:MOST_PROMPTS], some[MOST_PROMPTS:]
    began = time.monotonic()
    engine = Engine(model, measure)
    read = time.monotonic()
    reread = measure_reconstruction(model, learn, range(len(learn)), limit, Part(), lambda _done, _total: None)
    ended = time.monotonic()
    full = engine.evaluate(Policy.full(engine.n_layers))
    title = (
        f"{len(measure)} prompts read in {read - began:.0f} s; {len(reread.rows)} others read twice in "
        f"{ended - read:.0f} s; NLL of the full cache {full.nll.mean():.2f}"
    )
    table = Table(
        "cache", "method", "NLL, nats over full", "KL, nats", "KL over the best known", "changed", title=title
    )
    for budget in BUDGETS:
        for row in rows(engine, budget, reread.profile, full):
            cells = [_interval(row[name]) for name in ("nll", "kl", "kl_over_best_known")]
            table.add_row(f"{row['kept']:.1%}", row["method"], *cells, f"{row['changed']:.3f}")
            report("heads", row)
    console.print(table)


if __name__ == "__main__":
    main()
