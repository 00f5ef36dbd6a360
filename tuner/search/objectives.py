"""What a trial is judged by: how much of the cache it keeps, and how much that disturbs the model.

The disturbance is KL(full cache || policy) of the next-token distributions, mean of that along the reference answers
and that along what the full cache itself writes: docs/verdict.md says how this blend was chosen. The increase of the
references' likelihood would do for small caches; but by luck a cut raises the likelihood of some references, and such
a trial seems to beat every larger cache: a search would never look at the sizes where whole answers survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuner.measuring.losses import Losses
from tuner.search.records import TrialRecord

QUALITY = "kl"
MEMORY = "cache_fraction"
SIGNAL = "mean KL along the references and the full cache's own texts"
"""What studies must have in common, so that their figures can stand side by side."""

Point = tuple[float, float]
"""(cache fraction, KL to the full cache in nats per token). Optuna keeps the same two the other way round: see
`values_of`."""

DIRECTIONS = ("minimize", "minimize")
"""Of both values, for Optuna."""


def values_of(metrics: Mapping[str, float]) -> list[float]:
    """A trial's values as Optuna keeps them: KL, then cache fraction."""
    return [metrics[QUALITY], metrics[MEMORY]]


def summary(losses: Losses, full: Losses) -> dict[str, float]:
    """Means over the samples of what quality was lost against the full cache: nats for `kl`, points for accuracy."""
    return {
        QUALITY: float(losses.kl.mean()),
        "reference_kl": float(losses.reference_kl.mean()),
        "own_text_kl": float(losses.own_kl.mean()),
        "nll": float(losses.nll.mean()),
        "nll_increase": float((losses.nll - full.nll).mean()),
        "token_accuracy": float(losses.accuracy.mean()),
        "accuracy_drop_points": 100 * float((full.accuracy - losses.accuracy).mean()),
        "changed_tokens": float(losses.changed.mean()),
        "own_text_changed_tokens": float(losses.own_changed.mean()),
    }


def points_of(records: Iterable[TrialRecord]) -> list[Point]:
    """(cache fraction, KL) of the complete trials, in their order."""
    return [(r.metrics[MEMORY], r.metrics[QUALITY]) for r in records if r.state == "complete"]
