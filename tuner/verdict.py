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
    by_hand = (
        f"the best baseline ({baseline.label}) needs {baseline.cache_fraction:.0%}"
        if baseline
        else "no baseline below the full cache meets it"
    )
    if chosen is None:
        near = f"; the closest ({closest.label}) loses {_loss(closest)}" if closest else ""
        advice = f"use {baseline.label}" if baseline else "keep the full cache"
        return f"No tuned policy stays within {goal:g} point{_s(goal)} of the full cache{near}: {advice} ({by_hand})."
    figures = f"keeps {chosen.cache_fraction:.0%} of the cache and loses {_loss(chosen)} on {n} unseen samples"
    if not chosen.meets(goal):
        return f"The tuned policy does not hold: it {figures}, beyond the {goal:g} point{_s(goal)} allowed; {by_hand}."
    if baseline and baseline.cache_fraction <= chosen.cache_fraction:
        return f"A tie: the tuned policy {figures}, and {baseline.label} needs no more ({baseline.cache_fraction:.0%})."
    return f"The tuned policy {figures}, within the {goal:g} point{_s(goal)} allowed; {by_hand}."


def _loss(candidate: Candidate) -> str:
    d = candidate.difference
    return f"{-d.mean + 0:.2f} points (95 % interval {-d.high + 0:.2f} to {-d.low + 0:.2f})"


def _s(value: float) -> str:
    return "" if value == 1 else "s"
