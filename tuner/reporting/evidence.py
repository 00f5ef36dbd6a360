"""What a run leaves behind for its readers: evidence as JSON, pictures, and the last lines on the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from a2sf_core.files import write_whole
from a2sf_core.policy import Policy
from tuner.alpha.regressor import BUDGET_SCALES, FEATURES, LossTable
from tuner.judging.contest import Choice, Contest, cache_bytes
from tuner.judging.grading import Scorer
from tuner.judging.intervals import half_width, paired_interval, samples_for
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine
from tuner.reporting.half_life import half_life_png
from tuner.reporting.pareto import pareto_html, pareto_png
from tuner.reporting.profile_map import profile_png
from tuner.search.profile import PROFILE_FILE
from tuner.search.records import TrialRecord
from tuner.search.space import Space

if TYPE_CHECKING:
    from tuner.judging.proof import Outcome
    from tuner.tracking.tracker import Tracker

N_SHOWN_OUTPUTS = 3
NICE_POINTS = (10, 5, 3, 2, 1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Precisions that a user may ask for next."""


def alpha_example() -> Any:
    """One input row of the alpha regressor's surface, with the names of its features, for MLflow's signature."""
    import pandas as pd

    return pd.DataFrame([[3.0, -6.0, 9.0, 7.0, 0.25]], columns=list(FEATURES))


def evidence(outcome: Outcome, choice: Choice, proving: Contest) -> dict[str, Any]:
    """The three checks of a policy (quality, cache, effect of the dropped tokens), with how they were made."""
    chosen, unseen = outcome.exported, proving.engine
    full_cache = Policy.full(unseen.n_layers)
    losses = unseen.evaluate(chosen.policy)
    bytes_full, bytes_kept = cache_bytes(losses, unseen)
    nll = paired_interval(losses.nll - unseen.evaluate(full_cache).nll, proving.seed)
    paired = proving.with_unseen(chosen)
    width = half_width(paired, len(unseen.samples))
    finer = next((step for step in NICE_POINTS if step <= width / 2), NICE_POINTS[-1])
    return {
        "verdict": outcome.sentence,
        "goal_points": proving.max_degradation,
        "metric": proving.scorer.metric.name,
        "policy_from": chosen.label,
        "quality": {
            "full_cache": float(proving.scorer(unseen, full_cache).mean()),
            "difference_points": chosen.difference.to_list(),
            "nll_increase_nats": nll.to_list(),
            "confidence": 0.95,
        },
        "cache": {
            "fraction": chosen.cache_fraction,
            "bytes_per_prompt_full": bytes_full,
            "bytes_per_prompt_kept": bytes_kept,
        },
        "dropped_tokens": {
            "kl_nats_per_token": float(losses.kl.mean()),
            "changed_top_choice": float(losses.changed.mean()),
            "generated": _generated(outcome, unseen, proving.scorer, losses.kl),
        },
        "best_baseline": outcome.baseline
        and {
            "label": outcome.baseline.label,
            "cache_fraction": outcome.baseline.cache_fraction,
            "difference_points": outcome.baseline.difference.to_list(),
        },
        "choice": {
            "candidates": len(choice.finalists),
            "confidence_of_each": choice.confidence,
            "search_difference_points": outcome.on_search,
            "select_difference_points": choice.picked[-1].difference.to_list() if choice.picked else None,
        },
        "precision": {
            "half_width_points": width,
            "finer_points": finer,
            "samples_for_finer": samples_for(paired, finer),
        },
    }


def _generated(outcome: Outcome, unseen: Engine, scorer: Scorer, kl: np.ndarray) -> dict[str, Any]:
    """Text that the model really writes with the full and the pruned cache, where pruning changed the most."""
    full = Policy.full(unseen.n_layers)
    exact = {
        name: float(scorer.by_text(unseen, policy, "exact_match").mean())
        for name, policy in (("full_cache", full), ("policy", outcome.exported.policy))
    }
    before, after = scorer.texts(unseen, full), scorer.texts(unseen, outcome.exported.policy)
    worst = np.argsort(-kl)[:N_SHOWN_OUTPUTS]
    return {
        "exact_match": exact,
        "identical_outputs": float(np.mean([a == b for a, b in zip(before, after, strict=True)])),
        "most_changed": [
            {"id": unseen.samples[i].id, "full_cache": before[i], "policy": after[i]} for i in worst.tolist()
        ],
    }


def write(
    folder: Path, records: Sequence[TrialRecord], outcome: Outcome, found: dict[str, Any], space: Space
) -> list[Path]:
    """Write report.json and the pictures into ``folder`` and return their paths."""
    paths = [folder / name for name in ("report.json", "pareto.png", "pareto.html", "half_life.png", "profile.png")]
    finalists = [
        {"label": c.label, "cache_fraction": c.cache_fraction, "difference_points": c.difference.to_list()}
        for c in outcome.finalists
    ]
    whole = {**found, "finalists_on_select": finalists, "alpha_model": outcome.alpha_model.to_dict()}
    write_whole(paths[0], json.dumps(whole, indent=2) + "\n")
    chosen = outcome.exported
    for draw, path in ((pareto_png, paths[1]), (pareto_html, paths[2])):
        draw(path, records, chosen, outcome.baseline, "accuracy_drop_points", found["goal_points"])
    half_life_png(
        paths[3], half_life_curves(outcome.losses), f"Search samples, {BUDGET_SCALES[-1]:.0%} of the tuned budget"
    )
    if space.profile is None:
        return paths[:-1]
    profile_png(paths[4], space.profile, chosen.policy)
    return [*paths, folder / PROFILE_FILE]


def half_life_curves(table: LossTable) -> dict[str, tuple[list[float], list[float]]]:
    """Mean loss against half-life for three groups of prompt lengths, at the tightest budget."""
    rows = len(table.tokens) // len(BUDGET_SCALES)
    tokens, loss = table.tokens[-rows:], table.loss[-rows:]
    edges = np.quantile(tokens, [0, 1 / 3, 2 / 3, 1])
    curves = {}
    for low, high in pairwise(edges):
        inside = (tokens >= low) & (tokens <= high)
        if not inside.any():
            continue
        curves[f"{low:.0f} to {high:.0f} tokens"] = (list(HALF_LIVES), loss[inside].mean(0).tolist())
    return curves


def flat_metrics(found: dict[str, Any]) -> dict[str, float]:
    """The figures of the report split, for MLflow's parent run."""
    mean, low, high = found["quality"]["difference_points"]
    metrics = {
        "report_difference_points": mean,
        "report_difference_low": low,
        "report_difference_high": high,
        "report_cache_fraction": found["cache"]["fraction"],
        "report_kl": found["dropped_tokens"]["kl_nats_per_token"],
        "report_changed_tokens": found["dropped_tokens"]["changed_top_choice"],
    }
    if found["best_baseline"]:
        metrics["report_baseline_cache_fraction"] = found["best_baseline"]["cache_fraction"]
    return metrics


def show(
    console: Console, folder: Path, outcome: Outcome, found: dict[str, Any], tracker: Tracker, config: Path
) -> None:
    """The last lines: a small table, the sentence, and what to do next."""
    table = Table(title=f"On {found['samples']['report']} unseen samples", title_justify="left")
    table.add_column("policy")
    for name in ("cache", found["metric"].replace("_", " "), "exact"):
        table.add_column(name, justify="right")
    exact = found["dropped_tokens"]["generated"]["exact_match"]
    table.add_row("full cache", "100%", f"{100 * found['quality']['full_cache']:.2f}", f"{exact['full_cache']:.1%}")
    measured = [candidate for candidate in (outcome.tuned, outcome.baseline) if candidate]
    for row in measured:
        name = f"{row.label} (tuned)" if row is outcome.tuned else row.label
        right = f"{exact['policy']:.1%}" if row is outcome.exported else ""
        table.add_row(name, f"{row.cache_fraction:.0%}", str(row.difference), right)
    console.print(table)
    console.print(f"\n{outcome.sentence}\n", style="bold", highlight=False)
    precision = found["precision"]
    console.print(
        f"With {found['samples']['report']} report samples the interval is about ±{precision['half_width_points']:.2f} "
        f"points; ±{precision['finer_points']:g} takes about {precision['samples_for_finer']} (--precision "
        f"{precision['finer_points']:g}).", highlight=False,
    )  # fmt: skip
    if found["warm_start"]:
        console.print(found["warm_start"], highlight=False)
    looks = found["samples"]["times_report_was_looked_at"]
    if looks > 1:
        console.print(f"The report samples have judged {looks} choices by now: the interval is a little optimistic.")
    model = outcome.alpha_model
    gain = f"{model.gain.mean:+.4f} [{model.gain.low:+.4f}, {model.gain.high:+.4f}] nats per token"
    said = model.reason or f"the regressor beat the best constant on select samples; on report samples it gains {gain}"
    console.print(f"alpha: {said}", highlight=False)
    console.print(f"MLflow    {tracker.serve_command()}", highlight=False, soft_wrap=True)
    console.print(f"          then open {tracker.link()}", highlight=False, soft_wrap=True)
    console.print(f"Picture   {folder / 'pareto.png'}", highlight=False, soft_wrap=True)
    console.print(f"Policy    {config}", highlight=False, soft_wrap=True)
