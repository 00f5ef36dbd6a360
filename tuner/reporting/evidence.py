"""What a run leaves behind for its readers: evidence as JSON, pictures, and the last lines on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.choice import Choice
from tuner.judging.contest import Contest
from tuner.judging.grading import Scorer
from tuner.judging.intervals import half_width, paired_interval, samples_for
from tuner.measuring.engine import Engine

if TYPE_CHECKING:
    from tuner.judging.proof import Outcome

from tuner.measuring.losses import Losses

N_SHOWN_OUTPUTS = 3
NICE_POINTS = (10, 5, 3, 2, 1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Precisions that a user may ask for next."""


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


def cache_bytes(losses: Losses, engine: Engine) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    full = tokens * engine.bytes_per_token
    return int(full.mean()), int((full * losses.cache_fraction).mean())
