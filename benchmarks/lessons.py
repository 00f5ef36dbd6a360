"""What budgets per KV head and learned forgetting are worth, and whether what one task taught holds on another.

    python -m benchmarks.lessons --model reference --source summarisation 256 1024 --source chat 256 1024
    python -m benchmarks.lessons --source meet.yaml meetings.jsonl 500 1000 --source knowledge-chat 500 1000
    python -m benchmarks.lessons --source knowledge-chat 400 600 --source knowledge-chat 1900 2100   # short and long

Each source (a task, a file of its samples if not its own, and the length of its prompts in tokens) teaches what a study
would learn of it: the profile that `a2sf-tune` itself chooses on --learn prompts, the one half-life that suits them
best, and a forgetting rule for every layer. On --measure other prompts of each source, at the same budgets, as ratios
of KL to the full cache (mean of both texts, paired over contexts, 95 %; below 1 the first is better): budgets per head
over budgets per layer, learned forgetting over the one half-life, budgets dealt out by the prompt over fixed ones
(where the rules were learned in nats), and of every other source's lesson the last of these over their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.table import Table

from a2sf_core import Policy
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import ScoreRule
from benchmarks.heads import BUDGETS, chosen, with_budgets
from benchmarks.lab import console, in_brackets, report
from benchmarks.peers_prompts import task_of
from benchmarks.peers_report import Triple, ratio_interval
from studies.samples import bundled_samples
from tuner.choices import SMOLLM2
from tuner.inputs.data import load_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import Task
from tuner.judging.grading import Grader
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends
from tuner.search.dimensions import Dimensions
from tuner.search.learning import LEARNED_FROM, drawn_for, learned_rules
from tuner.search.profile import Profile
from tuner.search.profile_part import Part
from tuner.search.profiles import HALF_LIVES_TRIED, find_profile
from tuner.watch import Silent, silent

CHOSEN_AT = 0.2
"""The budget at which the one half-life of a source is chosen."""
DRAWN = 4
"""Times as many bundled samples are drawn as are needed: some have contexts or lengths that do not suit."""
PER_LAYER, PER_HEAD, LEARNED, DEALT_OUT = "per layer", "per head", "learned", "by the prompt"
RATIOS = ("head_over_layer", "learned_over_one", "by_prompt_over_learned", "over_own")


@dataclass(frozen=True)
class Source:
    """Prompts to learn from and others to measure on, none with a context of the others."""

    name: str
    learn: list[Encoded]
    measure: list[Encoded]
    ends: Ends

    @classmethod
    def of(cls, given: Sequence[str], model: Any, tokenizer: Any, n_learn: int, n_measure: int, seed: int) -> Source:
        """From the words of one --source."""
        task, tokens = task_of(given[0]), (int(given[-2]), int(given[-1]))
        count = n_learn + n_measure
        drawn = (
            load_samples(given[1]) if len(given) == len(("task", "data", "low", "high")) else _own(task, tokens, count)
        )
        some = chosen(encode(drawn, tokenizer, task, max_tokens(model, tokenizer)), tokens, count, seed)
        ends = Grader.of(task, model, tokenizer).ends
        return cls(f"{task.name}, {tokens[0]} to {tokens[1]} tokens", some[:n_learn], some[n_learn:], ends)


def _own(task: Task, tokens: tuple[int, int], count: int) -> Sequence[Any]:
    assert task.samples is not None
    return bundled_samples(task.samples.model_copy(update={"tokens": tokens}), DRAWN * count)


@dataclass(frozen=True)
class Lesson:
    """What a source teaches."""

    profile: Profile
    half_life: float
    rules: Sequence[ScoreRule]

    @classmethod
    def of(cls, source: Source, model: Any, limit: int, seed: int) -> Lesson:
        """Read the source's prompts to learn from."""
        engine = Engine(model, source.learn, ends=source.ends, learn_from=LEARNED_FROM)
        dimensions = Dimensions("profile", True, engine.n_layers)
        profile = find_profile(engine, dimensions, limit, Part(), seed, Silent()).used
        budgets = profile.budgets(CHOSEN_AT)
        losses = {
            h: engine.evaluate(with_budgets(budgets, [Decay(h)] * engine.n_layers)).kl.mean() for h in HALF_LIVES_TRIED
        }
        rules = learned_rules(engine, range(len(source.learn)), silent, drawn_for(profile, seed))
        return cls(profile, min(losses, key=lambda half_life: float(losses[half_life])), rules)

    def policies(self, budget: float) -> dict[str, Policy]:
        """At one budget: per layer and per head with the one half-life, per head with learned forgetting, and the same
        dealt out by the prompt where the rules know how."""
        shares = self.profile.budgets(budget)  # [layer, kv_head]
        one = [Decay(self.half_life)] * len(shares)
        by_layer = np.broadcast_to(shares.mean(-1, keepdims=True), shares.shape)
        found = {
            PER_LAYER: with_budgets(by_layer, one),
            PER_HEAD: with_budgets(shares, one),
            LEARNED: with_budgets(shares, self.rules),
        }
        if all(rule.compares for rule in self.rules):
            found[DEALT_OUT] = replace(found[LEARNED], by_prompt=True)
        return found


def losses(model: Any, source: Source, lesson: Lesson, names: Sequence[str]) -> dict[tuple[str, float], np.ndarray]:
    """KL `[prompt]` of those of `names` that the lesson has on the prompts that `source` measures, by policy and
    budget."""
    engine = Engine(model, source.measure, ends=source.ends, own=lesson.rules)
    found = {budget: lesson.policies(budget) for budget in BUDGETS}
    return {
        (name, budget): engine.evaluate(own[name]).kl for budget, own in found.items() for name in names if name in own
    }


def _ratios(
    kl: dict[tuple[str, float], np.ndarray],
    own: dict[tuple[str, float], np.ndarray],
    budget: float,
    contexts: np.ndarray,
) -> dict[str, Triple]:
    """By their names in `RATIOS`: the last one of another source's lesson, the others of a source's own."""
    if kl is not own:
        name = _last(kl, own, budget)
        return {RATIOS[3]: ratio_interval(kl[name, budget], own[name, budget], contexts)}
    pairs = zip(RATIOS, (PER_HEAD, LEARNED, DEALT_OUT), (PER_LAYER, PER_HEAD, LEARNED), strict=False)
    return {
        ratio: ratio_interval(kl[ours, budget], kl[theirs, budget], contexts)
        for ratio, ours, theirs in pairs
        if (ours, budget) in kl
    }


def _last(kl: dict[tuple[str, float], np.ndarray], own: dict[tuple[str, float], np.ndarray], budget: float) -> str:
    return DEALT_OUT if (DEALT_OUT, budget) in kl and (DEALT_OUT, budget) in own else LEARNED


def _said(found: Triple) -> str:
    _, low, high = found
    return in_brackets(found, digits=2) + (" tie" if low <= 1 <= high else "")


def main() -> None:
    """Parse the command line, learn, measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--source", nargs="+", action="append", required=True, help="TASK [DATA] LOW HIGH")
    parser.add_argument("--learn", type=int, default=24)
    parser.add_argument("--measure", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    model, tokenizer = load_model(options.model, "cpu", options.dtype)
    limit = max_tokens(model, tokenizer)
    given = (options.learn, options.measure, options.seed)
    sources = [Source.of(words, model, tokenizer, *given) for words in options.source]
    lessons: list[Lesson] = []
    for source in sources:
        lessons.append(Lesson.of(source, model, limit, options.seed))
        console.print(f"{source.name}: profile of {lessons[-1].profile.kind}, half-life {lessons[-1].half_life:g}")
    table = Table(
        "measured on",
        "learned from",
        "cache",
        "KL",
        "head / layer",
        "learned / one half-life",
        "by prompt / fixed",
        "/ own",
    )
    for target, its_own in zip(sources, lessons, strict=True):
        contexts = np.array([each.context_key for each in target.measure])
        own = losses(model, target, its_own, (PER_LAYER, PER_HEAD, LEARNED, DEALT_OUT))
        for source, lesson in zip(sources, lessons, strict=True):
            kl = own if lesson is its_own else losses(model, target, lesson, (LEARNED, DEALT_OUT))
            for budget in BUDGETS:
                row: dict[str, Any] = {"on": target.name, "from": source.name, "budget": budget, "n": len(contexts)}
                row |= {"kl": float(kl[_last(kl, own, budget), budget].mean())}
                row |= _ratios(kl, own, budget, contexts)
                report("lessons", row)
                ratios = [_said(row[name]) if name in row else "" for name in RATIOS]
                table.add_row(target.name, source.name, f"{budget:.0%}", f"{row['kl']:.3f}", *ratios)
    console.width = 170
    console.print(table)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
