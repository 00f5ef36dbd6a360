"""What a trial is judged by: how much of the cache it keeps, and how much likelihood that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.measuring.losses import Losses
from tuner.search.records import TrialRecord

QUALITY = "nll_increase"
MEMORY = "cache_fraction"

Point = tuple[float, float]
"""(cache fraction, increase of the NLL in nats per token). Optuna keeps the same two the other way round: see
`values_of`."""

DIRECTIONS = ("minimize", "minimize")
"""Of both values, for Optuna."""


def values_of(metrics: Mapping[str, float]) -> list[float]:
    """A trial's values as Optuna keeps them: increase of the NLL, then cache fraction."""
    return [metrics[QUALITY], metrics[MEMORY]]


def summary(losses: Losses, full: Losses) -> dict[str, float]:
    """Means over the samples, quality relative to the full cache: nats for `nll_increase`, points for accuracy."""
    return {
        QUALITY: float((losses.nll - full.nll).mean()),
        MEMORY: float(losses.cache_fraction.mean()),
        "nll": float(losses.nll.mean()),
        "kl": float(losses.kl.mean()),
        "token_accuracy": float(losses.accuracy.mean()),
        "accuracy_drop_points": 100 * float((full.accuracy - losses.accuracy).mean()),
        "changed_tokens": float(losses.changed.mean()),
    }


def points_of(records: Sequence[TrialRecord]) -> list[Point]:
    """(cache fraction, increase of the NLL) of the complete trials, in their order."""
    return [(r.metrics[MEMORY], r.metrics[QUALITY]) for r in records if r.state == "complete"]
