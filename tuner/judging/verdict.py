"""The one sentence that a manager reads, and which policy it recommends."""

from __future__ import annotations

from tuner.judging.contest import Candidate

SAME_SIZE = 0.01
"""Caches that differ by less than this share of the full one are a tie."""


def best_of(tuned: Candidate | None, baseline: Candidate | None, goal: float) -> Candidate | None:
    """The smaller of those that hold; in a tie the baseline, which is simpler; None if neither holds."""
    holding = [candidate for candidate in (baseline, tuned) if candidate and candidate.meets(goal)]
    if len(holding) == 2 and holding[1].cache_fraction > holding[0].cache_fraction - SAME_SIZE:
        return holding[0]
    return holding[-1] if holding else None


def verdict(tuned: Candidate | None, closest: Candidate | None, baseline: Candidate | None, goal: float, n: int) -> str:
    """What was found, in one sentence; all candidates measured on the `n` samples of the report split.

    Args:
        tuned: the policy picked on the select split, None if none met the goal there.
        closest: the finalist that came nearest, to name when none met the goal.
        baseline: the smallest baseline that met the goal on the select split, None if only the full cache did.
        goal: allowed loss in points of the task's metric.
    """
    allowed = f"{goal:g} point{'' if goal == 1 else 's'}"
    best = best_of(tuned, baseline, goal)
    advice = "keep the full cache" if best is None else f"use {best.label}"
    if tuned is None:
        near = f"; the closest ({closest.label}) {_effect(closest)}" if closest else ""
        return f"No tuned policy stays within {allowed} of the full cache{near}. {_in_words(baseline, goal)}: {advice}."
    figures = f"keeps {_share(tuned)} of the cache and {_effect(tuned)} on {n} unseen samples"
    if not tuned.meets(goal):
        return (
            f"The tuned policy does not hold: it {figures}, {allowed} allowed. {_in_words(baseline, goal)}: {advice}."
        )
    if best is baseline and baseline is not None:
        same = abs(tuned.cache_fraction - baseline.cache_fraction) < SAME_SIZE
        outcome = "A tie" if same else "The baseline wins"
        return f"{outcome}: the tuned policy {figures}, {baseline.label} needs {_share(baseline)}: {advice}."
    return f"The tuned policy {figures}, within the {allowed} allowed. {_in_words(baseline, goal)}."


def _in_words(baseline: Candidate | None, goal: float) -> str:
    if baseline is None:
        return "No baseline below the full cache met the goal"
    if not baseline.meets(goal):
        return f"The best baseline ({baseline.label}) does not hold: it {_effect(baseline)}"
    return f"The best baseline ({baseline.label}) needs {_share(baseline)}"


def _share(candidate: Candidate) -> str:
    return f"{candidate.cache_fraction:.0%}"


def _effect(candidate: Candidate) -> str:
    d = candidate.difference
    if d.mean > 0:
        return f"gains {d.mean:.2f} points (95 % interval {d.low:.2f} to {d.high:.2f})"
    return f"loses {-d.mean + 0:.2f} points (95 % interval {-d.high + 0:.2f} to {-d.low + 0:.2f})"
