"""The files of a run beside its policy: report.json and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from a2sf_core.files import readable_json, write_whole
from a2sf_core.rules.learned import Learned
from tuner.alpha.regressor import Fitted
from tuner.alpha.table import BUDGET_SCALES, LossTable
from tuner.judging.contest import Candidate
from tuner.judging.expectation import Expectation
from tuner.judging.proof import Outcome
from tuner.measuring.bank import HALF_LIVES
from tuner.reporting.evidence import Evidence
from tuner.reporting.half_life import half_life_png
from tuner.reporting.html import pareto_html
from tuner.reporting.learned_curves import learned_png
from tuner.reporting.names import HALF_LIFE_PNG, LEARNED_PNG, PARETO_HTML, PARETO_PNG, PROFILE_PNG, REPORT_FILE
from tuner.reporting.pareto import pareto_png
from tuner.reporting.profile_map import profile_png
from tuner.search.objectives import QUALITY
from tuner.search.profile import PROFILE_FILE
from tuner.search.records import TrialRecord
from tuner.search.space import Space

EXPECTED = "expected_points_lost"


def write(
    folder: Path, records: Sequence[TrialRecord], outcome: Outcome, alpha: Fitted, evidence: Evidence, space: Space
) -> list[Path]:
    """Write report.json and the pictures into `folder` and return their paths."""
    report, png, html, half_life, profile = (
        folder / name for name in (REPORT_FILE, PARETO_PNG, PARETO_HTML, HALF_LIFE_PNG, PROFILE_PNG)
    )
    finalists = [
        {"label": e.proposal.label, "cache_fraction": e.cache_fraction, "expected_difference_points": -e.lost}
        for e in outcome.choice.finalists
    ]
    whole = {**evidence.to_dict(), "finalists": finalists, "alpha_model": alpha.model.to_dict()}
    write_whole(report, readable_json(whole))
    chosen = outcome.exported
    drawn = proven_picture(records, outcome)
    for draw, path in ((pareto_png, png), (pareto_html, html)):
        draw(path, *drawn)
    curves = half_life_curves(alpha.losses)
    half_life_png(half_life, curves, f"Search samples, {BUDGET_SCALES[-1]:.0%} of the tuned budget")
    files = [report, png, html, half_life]
    learned = [layer.rule for layer in chosen.policy.layers if isinstance(layer.rule, Learned)]
    if learned:
        files.append(folder / LEARNED_PNG)
        learned_png(files[-1], learned)
    if space.profile is not None:
        profile_png(profile, space.profile, chosen.policy)
        files += [profile, folder / PROFILE_FILE]
    return files


def proven_picture(
    records: Sequence[TrialRecord], outcome: Outcome
) -> tuple[list[TrialRecord], Candidate, Candidate | None, str, float]:
    """What `tuner.reporting.picture.picture_of` is given of a study that has ended."""
    expected = [with_expected(record, outcome.choice.expectation) for record in records]
    baseline = outcome.baseline.best if outcome.baseline else None
    return expected, outcome.exported, baseline, EXPECTED, outcome.goal


def with_expected(record: TrialRecord, expectation: Expectation) -> TrialRecord:
    """With the points that the trial is expected to lose: trials and proven policies are drawn in one unit."""
    if QUALITY not in record.metrics:
        return record
    return replace(record, metrics={**record.metrics, EXPECTED: expectation.lost(record.metrics[QUALITY])})


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
