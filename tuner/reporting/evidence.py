"""What a run leaves behind for an auditor: every figure with how it was made. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from a2sf_core.cuts import PROMPT
from tuner.judging.intervals import CONFIDENCE, half_width, samples_for
from tuner.judging.proof import Generated, OnReport, Outcome
from tuner.judging.verdict import Contender
from tuner.measuring.losses import Losses
from tuner.search.records import TrialRecord
from tuner.search.warm_start import what_transferred

NICE_POINTS = (10, 5, 3, 2, 1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Precisions that a user may ask for next."""


@dataclass(frozen=True)
class Quality:
    """The metric with the full cache (0 to 1), and intervals (mean, low, high) of what the policy changes.

    Token accuracy, teacher-forced, with the full cache and the policy (0 to 1), stands beside it.
    """

    full_cache: float
    difference_points: list[float]
    token_accuracy_full_cache: float
    token_accuracy_policy: float
    nll_increase_nats: list[float]
    confidence: float


@dataclass(frozen=True)
class CacheSize:
    """Share of the full caches of all report samples together, and bytes of keys and values per prompt, their mean.

    by_length: tokens of the shortest and of the longest of these prompts, and the share that is kept of each.
    """

    fraction: float
    bytes_per_prompt_full: int
    bytes_per_prompt_kept: int
    by_length: list[list[float]]


@dataclass(frozen=True)
class AlongText:
    """What the dropped tokens did along one text: to the next-token distributions, and to the likeliest token."""

    kl_nats_per_token: float
    changed_top_choice: float


@dataclass(frozen=True)
class DroppedTokens:
    """What the dropped tokens did: along the reference, along the full cache's own text, to written texts."""

    reference: AlongText
    own_text: AlongText
    generated: Generated

    @classmethod
    def of(cls, losses: Losses, generated: Generated) -> DroppedTokens:
        """Means over the samples."""
        return cls(
            AlongText(float(losses.reference_kl.mean()), float(losses.changed.mean())),
            AlongText(float(losses.own_kl.mean()), float(losses.own_changed.mean())),
            generated,
        )


@dataclass(frozen=True)
class CandidateFigures:
    """One candidate: cache and difference in points (mean, low, high)."""

    label: str
    cache_fraction: float
    difference_points: list[float]
    proven: bool

    @classmethod
    def of(cls, contender: Contender) -> CandidateFigures:
        """Those of `contender`."""
        best = contender.best
        return cls(best.label, best.cache_fraction, best.difference.to_list(), contender.proven)


@dataclass(frozen=True)
class HowChosen:
    """Among how many, and what the search samples promised and the choice expected, in points."""

    candidates: int
    search_difference_points: float
    expected_difference_points: float | None


@dataclass(frozen=True)
class Precision:
    """How wide the interval is to each side, a finer width to ask for next, and the samples that it takes."""

    half_width_points: float
    finer_points: float
    samples_for_finer: int


@dataclass(frozen=True)
class SampleCounts:
    """Samples of each part, and what may have passed between the parts."""

    search: int
    select: int
    report: int
    contexts_shared_between_splits: int
    times_report_was_looked_at: int


@dataclass(frozen=True)
class Evidence:
    """The three checks of a policy (quality, cache, effect of the dropped tokens), with how they were made.

    Names and order of the fields are those of the JSON in report.json and a2sf_config.json. `cut` is what was read
    before tokens were dropped, the prompt or the context alone, of whose tokens the cache figures are shares then;
    `trials` counts them by state; `study` says by name what it was made with.
    """

    status: str
    verdict: str
    power: str
    goal_points: float
    metric: str
    cut: str
    policy_from: str
    quality: Quality
    cache: CacheSize
    dropped_tokens: DroppedTokens
    best_baseline: CandidateFigures | None
    choice: HowChosen
    precision: Precision
    samples: SampleCounts
    trials: Mapping[str, int]
    warm_start: str
    study: Mapping[str, str]
    mlflow_run_id: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """The figures of the report split, for MLflow's parent run."""
        mean, low, high = self.quality.difference_points
        metrics = {
            "report_difference_points": mean,
            "report_difference_low": low,
            "report_difference_high": high,
            "report_cache_fraction": self.cache.fraction,
            "report_reference_kl": self.dropped_tokens.reference.kl_nats_per_token,
            "report_own_text_kl": self.dropped_tokens.own_text.kl_nats_per_token,
            "report_changed_tokens": self.dropped_tokens.reference.changed_top_choice,
            "report_own_text_changed_tokens": self.dropped_tokens.own_text.changed_top_choice,
        }
        if self.best_baseline:
            metrics["report_baseline_cache_fraction"] = self.best_baseline.cache_fraction
        return metrics


def gather(
    outcome: Outcome,
    records: Sequence[TrialRecord],
    samples: SampleCounts,
    study: Mapping[str, str],
    mlflow_run_id: str,
) -> Evidence:
    """The evidence of a run from what its steps have measured."""
    chosen, found, choice = outcome.exported, outcome.on_report, outcome.choice
    bytes_full, bytes_kept = cache_bytes(found)
    width = half_width(found.paired, outcome.power.n_contexts)
    finer = next((step for step in NICE_POINTS if step <= width / 2), NICE_POINTS[-1])
    return Evidence(
        status=outcome.verdict.status.value,
        verdict=outcome.verdict.sentence,
        power=str(outcome.power),
        goal_points=outcome.goal,
        metric=found.metric,
        cut=study.get("cut", PROMPT),  # an identity names it only where it is early
        policy_from=chosen.label,
        quality=Quality(
            found.full_score,
            chosen.difference.to_list(),
            *found.token_accuracy,
            found.nll_increase.to_list(),
            CONFIDENCE,
        ),
        cache=CacheSize(chosen.cache_fraction, bytes_full, bytes_kept, shares_by_length(found)),
        dropped_tokens=DroppedTokens.of(found.losses, found.generated),
        best_baseline=CandidateFigures.of(outcome.baseline) if outcome.baseline else None,
        choice=HowChosen(
            len(choice.finalists), outcome.on_search, -choice.picked.around.lost if choice.picked else None,
        ),
        precision=Precision(width, finer, samples_for(found.paired, finer)),
        samples=samples,
        trials={state: sum(r.state == state for r in records) for state in ("complete", "pruned", "failed")},
        warm_start=what_transferred(records),
        study=study,
        mlflow_run_id=mlflow_run_id,
    )  # fmt: skip


def cache_bytes(found: OnReport) -> tuple[int, int]:
    """Bytes of keys and values per prompt, mean over the samples: full cache, and what the policy keeps."""
    full = found.n_tokens * found.bytes_per_token
    return int(full.mean()), int((full * found.losses.cache_fraction).mean())


def shares_by_length(found: OnReport) -> list[list[float]]:
    """Tokens of the shortest and of the longest prompt, and the share that the policy keeps of each."""
    ends = [int(found.n_tokens.argmin()), int(found.n_tokens.argmax())]
    return [[int(found.n_tokens[place]), float(found.losses.cache_fraction[place])] for place in ends]
