"""The one sentence that a manager reads."""

from __future__ import annotations

from tuner.finalists import Candidate


def verdict(
    chosen: Candidate | None, closest: Candidate | None, baseline: Candidate | None, goal: float, n: int
) -> str:
    """What was found, in one sentence; all candidates measured on the ``n`` samples of the report split.

    Args:
        chosen: the policy picked on the select split, None if none met the goal there.
        closest: the finalist that came nearest, to name when none met the goal.
        baseline: the smallest baseline that met the goal on the select split, None if only the full cache did.
        goal: allowed loss in points of the task's metric.
    """
    allowed = f"{goal:g} point{'' if goal == 1 else 's'}"
    by_hand = _by_hand(baseline, goal)
    advice = f"use {baseline.label}" if baseline and baseline.meets(goal) else "keep the full cache"
    if chosen is None:
        near = f"; the closest ({closest.label}) {_effect(closest)}" if closest else ""
        return f"No tuned policy stays within {allowed} of the full cache{near}. {by_hand}: {advice}."
    figures = f"keeps {chosen.cache_fraction:.0%} of the cache and {_effect(chosen)} on {n} unseen samples"
    if not chosen.meets(goal):
        return f"The tuned policy does not hold: it {figures}, {allowed} allowed. {by_hand}: {advice}."
    if baseline and baseline.meets(goal) and baseline.cache_fraction <= chosen.cache_fraction:
        return f"A tie: the tuned policy {figures}, and {baseline.label} needs no more ({_share(baseline)})."
    return f"The tuned policy {figures}, within the {allowed} allowed. {by_hand}."


def _by_hand(baseline: Candidate | None, goal: float) -> str:
    if baseline is None:
        return "No baseline below the full cache met the goal"
    if not baseline.meets(goal):
        return f"The best baseline ({baseline.label}) does not hold either: it {_effect(baseline)}"
    return f"The best baseline ({baseline.label}) needs {_share(baseline)}"


def _share(candidate: Candidate) -> str:
    return f"{candidate.cache_fraction:.0%}"


def _effect(candidate: Candidate) -> str:
    d = candidate.difference
    if d.mean > 0:
        return f"gains {d.mean:.2f} points (95 % interval {d.low:.2f} to {d.high:.2f})"
    return f"loses {-d.mean + 0:.2f} points (95 % interval {-d.high + 0:.2f} to {-d.low + 0:.2f})"
