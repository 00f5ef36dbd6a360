"""Ours beside kvpress's presses: one model, one set of prompts, one evaluator over what each of them keeps.

    python -m benchmarks.peers                                         # SmolLM2, the bundled facts, no study needed
    python -m benchmarks.peers --data meetings.jsonl --tune 200 --measure 100 --config runs/x/a2sf_config.json
    python -m benchmarks.peers --cut context                           # pruned before the question is known

kvpress runs in an environment of its own, which the first run makes; it says what its presses keep of the same token
ids, and the project's engine reads both texts over it: the reference answer, and what the full cache itself writes.
Everything found is kept in --cache, so that a run that is stopped goes on, and a further policy costs only itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a2sf_core.cuts import CUTS, PROMPT
from benchmarks.kvpress_env import CACHE, PRESSES, Kvpress, label
from benchmarks.lab import console, report
from benchmarks.peers_evaluator import FULL, TEXTS, Figures, OnePrompt
from benchmarks.peers_ours import (
    HALF_LIFE,
    Arm,
    builtin,
    builtin_by_prompt,
    builtin_learned,
    cost,
    exported,
    medians,
    taught,
)
from benchmarks.peers_picture import draw
from benchmarks.peers_prompts import ends_of, name_of, own_text, prompts, task_of
from benchmarks.peers_report import Found, cost_table, full_line, in_markdown, quality_table, rows
from benchmarks.peers_written import compared, write, written_table
from tuner.choices import SMOLLM2
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import load_model
from tuner.search.profile_part import Part
from tuner.search.profiles import HALF_LIVES_TRIED

SHARES = (0.05, 0.1, 0.2, 0.4)
OWN_TOKENS = 64
"""Of what the full cache writes."""
SERVED, CHECKED = 0.2, 24
"""The share at which serving is timed and the evaluator checked, and tokens of the text that it is checked on."""


def measure(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Encoded],
    arms: Sequence[Arm],
    labels: Sequence[str],
    sets: Path,
    to: Path,
    written: Collection[str] = (),
) -> list[dict[str, Figures]]:
    """Per prompt, per arm (`Arm.key`), kept set (`label`) and for the full cache: its figures. `to` keeps them.

    Those in `written` write, too: their figures have the token ids as "text".
    """
    to.mkdir(parents=True, exist_ok=True)
    wanted = [FULL, *(arm.key for arm in arms), *labels]
    ends = ends_of(model, tokenizer, OWN_TOKENS)
    found = []
    for done, each in enumerate(asked, 1):
        part = Part(to / f"{name_of(each)}.json")
        unwritten = {key for key in written if part.get("texts", key) is None}
        unread = {key for key in wanted if part.get("figures", key) is None}
        if unread or unwritten:
            own = part.get("own", str(OWN_TOKENS))
            if own is None:
                own = own_text(model, tokenizer, each, OWN_TOKENS)
                part.put("own", str(OWN_TOKENS), own)
            prompt = OnePrompt(model, each, own)
            missing = unread | unwritten
            keeps = prompt.policies_keep({arm.key: arm.policy for arm in arms if arm.key in missing})
            with np.load(sets / f"{name_of(each)}.npz") as kept:
                keeps |= {key: prompt.peer_keeps(kept[key]) for key in labels if key in missing}
            part.put("figures", FULL, prompt.full)
            for key in keeps.keys() & unread:
                part.put("figures", key, prompt.figures(keeps[key]))
            keeps[FULL] = prompt.all
            for key, text in write(prompt, {key: keeps[key] for key in unwritten}, ends).items():
                part.put("texts", key, text)
            console.print(f"measured {done} of {len(asked)} prompts")
        found.append({key: part.get("figures", key) | {"text": part.get("texts", key)} for key in wanted})
    return found


def results(
    asked: Sequence[Encoded], found: Sequence[dict[str, Figures]], arms: Sequence[Arm], methods: Sequence[str]
) -> list[Found]:
    """One `Found` per share; the first arm at a share leads."""
    contexts = np.array([each.context_key for each in asked])
    table = []
    for share in sorted({arm.share for arm in arms}):
        ours = [arm for arm in arms if arm.share == share]
        keys = {arm.name: arm.key for arm in ours} | {method: label(method, share) for method in methods}
        by_method = {name: [each[key] for each in found] for name, key in keys.items()}
        table.append(Found(share, by_method, [each[FULL] for each in found], contexts, ours[0].name))
    return table


def check(model: Any, tokenizer: Any, kvpress: Kvpress, asked: Encoded, methods: Sequence[str]) -> dict[str, float]:
    """Largest difference of logits per press: read over its kept set here, and really served by kvpress."""
    text, name = own_text(model, tokenizer, asked, CHECKED), name_of(asked)
    sets = kvpress.sets({name: asked.prompt_ids}, methods, [SERVED])
    theirs = kvpress.native(asked.prompt_ids, [*asked.question_ids, *text], methods, SERVED)
    prompt = OnePrompt(model, asked, text)
    found = {}
    with np.load(sets / f"{name}.npz") as kept, np.load(theirs) as native:
        for method in methods:
            ours = prompt.logits(prompt.peer_keeps(kept[label(method, SERVED)]))[1][0]
            found[method] = float(np.abs(ours.cpu().numpy() - native[method][-len(text) :]).max())
    return found


def _serving(
    model: Any, kvpress: Kvpress, asked: Sequence[Encoded], arms: Sequence[Arm], methods: Sequence[str]
) -> None:
    ours = {arm.name: arm.policy for arm in arms if arm.share == SERVED}
    found = medians(cost(model, asked, ours), FULL)
    theirs = medians(kvpress.cost({name_of(each): each.prompt_ids for each in asked}, methods, SERVED), FULL)
    found |= {f"{FULL}, kvpress's transformers" if name == FULL else name: row for name, row in theirs.items()}
    console.print(cost_table(found, SERVED, len(asked)))
    report("peers serving", found)


def _written(tokenizer: Any, asked: Sequence[Encoded], ids: dict[str, list[list[int]]]) -> None:
    texts = {name: tokenizer.batch_decode(own, skip_special_tokens=True) for name, own in ids.items()}
    table = compared(texts, asked)
    console.print(written_table(table, SERVED, len(asked)))
    report("peers written", {"n": len(asked), "rows": [each.to_dict() for each in table]})


def _ours(
    options: argparse.Namespace, model: Any, tokenizer: Any, tune: Sequence[Encoded], lengths: Sequence[int], file: Path
) -> list[Arm]:
    """Exported policies first, then what needs no study; the first at a share is what peers are compared with."""
    arms = exported(options.config, options.shares, lengths, options.cut)
    shares = sorted({*options.shares, *(arm.share for arm in arms)})
    profile, rules = taught(model, tokenizer, tune[-options.learn :], OWN_TOKENS, file)
    console.print(f"budgets from {profile.n_prompts} prompts to tune on, forgetting from {options.learn}")
    arms += builtin_by_prompt(profile, shares, rules)
    arms += builtin_learned(profile, shares, rules)
    for half_life in options.half_life or [HALF_LIFE[options.cut]]:
        arms += builtin(profile, shares, half_life)
    return arms


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--task", default="knowledge-chat", help="a task by name, or a YAML file")
    parser.add_argument("--data", help="samples of your own, instead of the task's")
    parser.add_argument("--tune", type=int, default=200, help="rows to learn from; they are not measured")
    parser.add_argument("--measure", type=int, default=100)
    parser.add_argument("--config", action="append", default=[], help="a policy that a2sf-tune wrote; may be repeated")
    parser.add_argument(
        "--learn", type=int, default=24, help="rows, the last to tune on, that built-in arms are learned from"
    )
    parser.add_argument(
        "--half-life",
        type=float,
        nargs="+",
        choices=HALF_LIVES_TRIED,
        help="of built-in arms: 16, or 256 for --cut context",
    )
    parser.add_argument("--cut", choices=CUTS, default=PROMPT, help="when the cache is pruned")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--methods", nargs="+", choices=PRESSES, default=PRESSES)
    parser.add_argument(
        "--write", action="store_true", help=f"hold what is written at {SERVED:g} of the cache, too, to the reference"
    )
    parser.add_argument("--serve", type=int, default=0, help="prompts to time serving on; 0 leaves it out")
    parser.add_argument("--check", action="store_true", help="only hold the evaluator to a native run of every press")
    parser.add_argument("--picture", type=Path, help="a PNG to draw")
    parser.add_argument("--cache", type=Path, default=CACHE)
    return parser.parse_args()


def main() -> None:
    """Parse the command line, measure, print the tables, draw the picture."""
    options = _options()
    model, tokenizer = load_model(options.model, "cpu", "float32")
    kvpress = Kvpress(options.cache, model, tokenizer)
    task = task_of(options.task).with_cut(options.cut)
    tune, asked = prompts(model, tokenizer, task, options.data, options.tune, options.measure)
    lengths = [len(each.prompt_ids) for each in asked]
    if options.check:
        for method, error in check(model, tokenizer, kvpress, asked[0], options.methods).items():
            console.print(f"{method}: logits within {error:.1e}")
        return
    arms = _ours(options, model, tokenizer, tune, lengths, options.cache / "profiles" / kvpress.identity)
    shares = sorted({arm.share for arm in arms})
    sets = kvpress.sets({name_of(each): each.prompt_ids for each in asked}, options.methods, shares)
    labels = [label(method, share) for method in options.methods for share in shares]
    to = options.cache / "figures" / f"{kvpress.identity}"
    writing = {FULL: FULL} | {arm.name: arm.key for arm in arms if arm.share == SERVED}
    writing |= {method: label(method, SERVED) for method in options.methods}
    measured = measure(model, tokenizer, asked, arms, labels, sets, to, writing.values() if options.write else ())
    found = results(asked, measured, arms, options.methods)
    console.width = 170
    console.print(
        f"{options.data or task.name}, cut: {options.cut}. {len(asked)} prompts of {min(lengths)} to {max(lengths)} "
        f"tokens (median {int(np.median(lengths))}), {len(set(found[0].contexts.tolist()))} contexts. "
        + full_line(found[0])
    )
    every = []
    for at_share in found:
        for text in TEXTS:
            console.print(quality_table(at_share, text, f"{at_share.share:.0%} of the cache, {text} text"))
            every += rows(at_share, text)
    for text in TEXTS:
        print(in_markdown(found, text), end="\n\n")
    report("peers", {"cut": options.cut, "n": len(asked), "rows": every})
    if options.write:
        _written(tokenizer, asked, {name: [each[key]["text"] for each in measured] for name, key in writing.items()})
    if options.picture:
        title = "What pruning the cache costs: ours beside kvpress"
        subtitle = (
            f"{Path(str(options.model)).name}, {Path(options.data).stem if options.data else task.title}, {len(asked)} "
            f"prompts, pruned {'before' if options.cut == 'context' else 'after'} the question; bands: 95 % bootstrap"
        )
        draw(every, found[0].lead, title, subtitle, options.picture)
    if options.serve:
        _serving(model, kvpress, asked[: options.serve], arms, options.methods)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
