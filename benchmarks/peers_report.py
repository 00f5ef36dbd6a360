"""Tables and intervals of the comparison: every method against ours on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.kvpress_env import MASKS_ONLY
from benchmarks.lab import in_brackets
from benchmarks.peers_evaluator import FULL, Figures, column
from tuner.inputs.power import CONFIDENCE
from tuner.judging.intervals import RESAMPLES, Paired, paired_interval

EQUAL = 0.02
"""How far, in parts of a share, a method's memory may be off before its row says so."""
Triple = list[float]
"""Mean, low, high."""


@dataclass(frozen=True)
class Found:
    """What was measured at one share: per method the figures of every prompt, ours first.

    lead: the method of ours that all others are compared with. contexts: a label per prompt, what a bootstrap draws.
    """

    share: float
    methods: Mapping[str, Sequence[Figures]]
    full: Sequence[Figures]
    contexts: np.ndarray
    lead: str


def ratio_interval(ours: np.ndarray, peer: np.ndarray, contexts: np.ndarray, seed: int = 0) -> Triple:
    """Mean of `ours` over mean of `peer` `[prompt]`, with its percentile bootstrap over contexts, drawn in pairs."""
    top, bottom = Paired.of(ours, contexts).sums, Paired.of(peer, contexts).sums  # [context] each
    drawn = np.random.default_rng(seed).integers(len(top), size=(RESAMPLES, len(top)))
    ratios = top[drawn].sum(1) / bottom[drawn].sum(1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(top.sum() / bottom.sum()), float(low), float(high)]


def mean_interval(values: np.ndarray, contexts: np.ndarray) -> Triple:
    """Mean with its bootstrap interval."""
    return paired_interval(values, 0, contexts=contexts).to_list()


def rows(found: Found, text: str) -> list[dict[str, Any]]:
    """One row of figures per method along one text, the smallest KL first; intervals over the prompts."""
    lead = column(found.methods[found.lead], text, "kl")
    full_nll = column(found.full, text, "nll")
    table = []
    for method, figures in found.methods.items():
        kl = column(figures, text, "kl")
        row: dict[str, Any] = {
            "share": found.share,
            "text": text,
            "method": method,
            "kept": float(np.mean([each["kept"] for each in figures])),
            "kl": mean_interval(kl, found.contexts),
            "nll": mean_interval(column(figures, text, "nll") - full_nll, found.contexts),
            "agrees": mean_interval(1 - column(figures, text, "changed"), found.contexts),
            "accuracy": mean_interval(column(figures, text, "accuracy"), found.contexts),
        }
        if method != found.lead:
            row["ours_minus"] = mean_interval(lead - kl, found.contexts)
            row["ratio"] = ratio_interval(lead, kl, found.contexts)
        table.append(row)
    return sorted(table, key=lambda row: row["kl"][0])


def quality_table(found: Found, text: str, title: str) -> Table:
    """For people. A share that differs from what all were asked to keep is marked."""
    table = Table(
        "method", "kept", "KL, nats", "ours - it", "ours / it", "NLL over full", "agrees", "top-1", title=title
    )
    for row in rows(found, text):
        off = abs(row["kept"] - found.share) > EQUAL * found.share
        table.add_row(
            f"[bold]{row['method']}[/bold]" if row["method"] == found.lead else row["method"],
            f"{row['kept']:.2%}{' (!)' if off else ''}",
            in_brackets(row["kl"]),
            in_brackets(row.get("ours_minus"), "+"),
            in_brackets(row.get("ratio")),
            in_brackets(row["nll"], "+"),
            f"{row['agrees'][0]:.3f}",
            f"{row['accuracy'][0]:.3f}",
        )
    return table


def in_markdown(found: Sequence[Found], text: str) -> str:
    """One table over all shares along one text: KL, and what ours is of it, both with intervals; the best first."""
    columns = [{row["method"]: row for row in rows(each, text)} for each in found]
    names = dict.fromkeys(name for each in found for name in each.methods)
    methods = sorted(names, key=lambda name: max(each[name]["kl"][0] for each in columns if name in each))
    heads = [f"{each.share:.0%}: KL; ours / it" for each in found]
    lines = [f"| {text} text | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in methods:
        own = [each.get(name, {}) for each in columns]
        cells = ["; ".join(filter(None, (in_brackets(row.get("kl")), in_brackets(row.get("ratio"))))) for row in own]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(found: Mapping[str, Mapping[str, float]], share: float, n_prompts: int) -> Table:
    """Seconds and bytes, both as ratios to the full cache in the same environment."""
    title = f"Serving at {share:.0%} of the cache: medians over {n_prompts} prompts, CPU seconds of one process"
    table = Table("method", "first token, s", "to its full cache", "cache held, MB", "to the full cache", title=title)
    for method, each in found.items():
        note = " (masks only)" if method in MASKS_ONLY else ""
        table.add_row(
            method + note,
            f"{each['seconds']:.2f}",
            f"{each['seconds_ratio']:.2f}",
            f"{each['bytes'] / 1e6:.2f}",
            f"{each['bytes_ratio']:.3f}",
        )
    return table


def full_line(found: Found) -> str:
    """What the full cache itself does along both texts."""
    said = [
        f"{text} text: NLL {column(found.full, text, 'nll').mean():.2f}, "
        f"top-1 {column(found.full, text, 'accuracy').mean():.3f}"
        for text in ("reference", "own")
    ]
    return f"{FULL}, " + "; ".join(said)
