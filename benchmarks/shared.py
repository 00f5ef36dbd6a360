"""Cut before the question: what it costs in quality beside a cut after it, and what one cut saves for many questions.

    python -m benchmarks.shared                             # SmolLM2 on the bundled facts, through its chat template
    python -m benchmarks.shared --data meetings.jsonl       # on data of your own

Quality as in `benchmarks.heads`, along the reference answers, on the same prompts with both cuts; the budgets per KV
head are learned for each cut from prompts, or contexts, that are read twice. Then the longest context is asked
`QUESTIONS` questions: with each prompt read whole, from one reading, and from one cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from rich.table import Table

from a2sf_core import LayerPolicy, Policy, attach, read_context
from a2sf_core.cache import A2SFCache
from a2sf_core.cuts import CUTS, PROMPT
from a2sf_core.rules.attention import Decay
from a2sf_core.switch import cache_argument
from benchmarks.heads import arguments, chosen, given_samples, per_head
from benchmarks.lab import console, in_brackets, report
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.intervals import paired_interval
from tuner.measuring.engine import Engine
from tuner.search.profile_part import Part
from tuner.search.reconstruction import RECENT, SINK, Reconstruction
from tuner.search.rereading import MOST_PROMPTS, TwiceReader, measure_reconstruction
from tuner.watch import silent

BUDGETS = (0.1, 0.2, 0.4)
HALF_LIVES = (16.0, 64.0, 256.0, inf)
QUESTIONS, WRITTEN, SAVED_AT = 10, 20, 0.2


def methods(budget: float, n_layers: int, profile: Reconstruction) -> dict[str, Policy]:
    """Heads alike and budgets per head, under several half-lives."""
    found = {}
    for half_life in HALF_LIVES:
        alike = LayerPolicy(Decay(half_life), budget, RECENT, SINK)
        found[f"heads alike, half-life {half_life:g}"] = Policy((alike,) * n_layers)
        found[f"budgets per head, half-life {half_life:g}"] = per_head(replace(profile, half_life=half_life), budget)
    return found


def compare(model: Any, learn: Sequence[Encoded], measure: Sequence[Encoded], cut: str, table: Table) -> Policy:
    """Rows of KL with one cut; the policy of budgets per head and half-life 256 at `SAVED_AT`."""
    reread = measure_reconstruction(TwiceReader.of(model), learn, range(len(learn)), 10**6, Part(), silent)
    engine = Engine(model, measure)
    for budget in BUDGETS:
        for name, policy in methods(budget, engine.n_layers, reread.profile).items():
            losses = engine.evaluate(policy)
            kl = paired_interval(losses.kl, 0)
            kept = float(losses.cache_fraction.mean())
            table.add_row(cut, f"{kept:.1%}", name, in_brackets(kl.to_list()))
            report("shared", {"cut": cut, "budget": budget, "kept": kept, "method": name, "kl": kl.to_list()})
    return per_head(replace(reread.profile, half_life=256.0), SAVED_AT)


@torch.no_grad()
def answer(model: Any, context: Sequence[int], questions: Sequence[Sequence[int]], once: bool) -> dict[str, float]:
    """Seconds to read and to write, and bytes held for all questions, with the policy that is attached."""
    began = time.perf_counter()
    shared = read_context(model, torch.tensor([context])) if once else None
    read = time.perf_counter() - began
    wrote, held = 0.0, shared.nbytes() if shared is not None else 0
    for question in questions:
        began = time.perf_counter()
        cache = A2SFCache(Policy.full(model.config.num_hidden_layers)) if shared is None else shared.fork()
        ids = torch.tensor([question if once else [*context, *question]])
        token = model(ids, logits_to_keep=1, **{cache_argument(model): cache}).logits[:, -1:].argmax(-1)
        read += time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(WRITTEN - 1):
            token = model(token, **{cache_argument(model): cache}).logits[:, -1:].argmax(-1)
        wrote += time.perf_counter() - began
        held += cache.nbytes() - (shared.nbytes() if shared is not None else 0)
    return {"read": read, "wrote": wrote, "held": held}


def save(model: Any, samples: Sequence[Encoded], policy: Policy) -> Table:
    """What `QUESTIONS` questions on the longest context take. The questions are those of other samples."""
    context = max((sample.prompt_ids for sample in samples), key=len)
    questions = [sample.question_ids for sample in samples][:QUESTIONS]
    full = Policy.full(model.config.num_hidden_layers)
    title = f"{len(questions)} questions on a context of {len(context)} tokens, {WRITTEN} tokens written to each"
    table = Table("how", "reading, s", "writing, s", "all, s", "held, MB", title=title)
    for name, used, once in (
        ("each prompt read whole, full cache", full, False),
        ("one reading, full cache", full, True),
        (f"one cut, {SAVED_AT:.0%} of the context", policy, True),
    ):
        with attach(used, model):
            answer(model, context, questions[:1], once)
            took = answer(model, context, questions, once)
        seconds = [took["read"], took["wrote"], took["read"] + took["wrote"]]
        table.add_row(name, *(f"{each:.2f}" for each in seconds), f"{took['held'] / 1e6:.1f}")
        report("shared", {"how": name, **took})
    return table


def main() -> None:
    """Parse the command line and print two tables."""
    options = arguments(__doc__, 3, "budgets are", 24)
    model, tokenizer = load_model(options.model, "cpu")
    task, limit = load_task(options.task), max_tokens(model, tokenizer)
    given = given_samples(task, options.data)
    whole = encode(given, tokenizer, task.with_cut(PROMPT), limit)
    some = [each.id for each in chosen(whole, tuple(options.tokens), MOST_PROMPTS + options.measure, options.seed)]
    table = Table("cut after the", "cache", "method", "KL, nats per token", title=f"{options.measure} prompts")
    for cut in CUTS:
        by_id = {each.id: each for each in encode(given, tokenizer, task.with_cut(cut), limit)}
        samples = [by_id[name] for name in some]
        policy = compare(model, samples[: options.learn], samples[MOST_PROMPTS:], cut, table)
    console.print(table)
    console.print(save(model, samples, policy))


if __name__ == "__main__":
    main()
