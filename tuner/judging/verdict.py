"""Which policy a run recommends, how sure it is, and the sentences that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tuner.inputs.power import Power, in_points
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval, Paired, contexts_to_hold, paired_interval

SAME_SIZE = 0.05
"""Caches whose sizes differ by less than this share of the larger one are of one size."""


class Status(StrEnum):
    """How sure a run is of what it exports."""

    ADOPT = "adopt"
    PROMISING = "promising, not proven"
    NO = "do not adopt"


@dataclass(frozen=True)
class Verdict:
    """What a run recommends: `exported` with its `status`, and why, in a few sentences."""

    status: Status
    exported: Candidate
    sentence: str


@dataclass(frozen=True)
class Contender:
    """The best of one kind on the report samples, tuned or known; `proven` if it holds there, else only promising.

    `would_do` is the smallest goal, in points, that would have proven it: for it and for what is tested before it.
    """

    best: Candidate
    proven: bool
    would_do: float


def decide(
    tuned: Contender | None, known: Contender | None, closest: Candidate | None, full: Candidate, power: Power
) -> Verdict:
    """Proven before promising, small before large, known before tuned where the two cannot be told apart.

    Args:
        tuned, known: None where even the best estimate misses the goal.
        closest: what came nearest where there is no `tuned`.
        full: the full cache.
        power: of the report split, with the goal.
    """
    proven = [each for each in (known, tuned) if each and each.proven]
    hopeful = [each for each in (known, tuned) if each]
    if proven:
        best = _smaller(proven).best
        return Verdict(Status.ADOPT, best, _adopt(best, tuned, known, closest, power))
    if hopeful:
        contender = _smaller(hopeful)
        return Verdict(Status.PROMISING, contender.best, _promising(contender, power))
    return Verdict(Status.NO, full, _no(closest, power))


def same_size(one: Candidate, other: Candidate) -> bool:
    """True if the two caches are of one size for all that matters."""
    larger = max(one.cache_fraction, other.cache_fraction)
    return abs(one.cache_fraction - other.cache_fraction) < SAME_SIZE * larger


def _smaller(contenders: list[Contender]) -> Contender:
    """The smaller of one or two; the first, which is simpler, if they are of one size."""
    first, last = contenders[0], contenders[-1]
    is_first = same_size(first.best, last.best) or first.best.cache_fraction < last.best.cache_fraction
    return first if is_first else last


def _adopt(
    best: Candidate, tuned: Contender | None, known: Contender | None, closest: Candidate | None, power: Power
) -> str:
    figures = f"keeps {share(best)} of the cache and {effect(best)} on {power.n_samples} unseen samples"
    within = f"within the {in_points(power.goal)} allowed"
    if known and best is known.best:
        said = f"Adopt {best.label}, a known method: it {figures}, {within}."
        return f"{said} {_beside_known(tuned, best, closest, power)}"
    return f"Adopt the tuned policy: it {figures}, {within}. {_beside_tuned(best, known, power)}"


def _beside_known(tuned: Contender | None, best: Candidate, closest: Candidate | None, power: Power) -> str:
    if tuned is None:
        near = f"; the closest ({closest.label}) {effect(closest)}" if closest else ""
        return f"No tuned policy seems to stay within {in_points(power.goal)}{near}."
    if tuned.proven and same_size(tuned.best, best):
        return (
            f"A tie: the tuned policy keeps {share(tuned.best)}{_against(tuned.best, best)}, and the known is simpler."
        )
    if tuned.proven:
        return f"The tuned policy needs {share(tuned.best)}."
    return f"The tuned policy ({share(tuned.best)}) is promising but not proven: it {effect(tuned.best)}."


def _beside_tuned(best: Candidate, known: Contender | None, power: Power) -> str:
    if known is None:
        return f"No known method seems to stay within {in_points(power.goal)}."
    if known.proven:
        return f"The best known method ({known.best.label}) needs {share(known.best)}{_against(best, known.best)}."
    return f"The best known method ({known.best.label}) is not proven: it {effect(known.best)}."


def _promising(contender: Contender, power: Power) -> str:
    best, accept = contender.best, math.ceil(10 * contender.would_do) / 10
    needed = _more_contexts(best, power)
    why = "its best estimate is within the {allowed} allowed, the worst end of its interval is not. "
    if best.meets(power.goal):
        why = "that is within the {allowed} allowed, but a larger cache, tested before it, was not, so it may be luck. "
    said = (
        f"Promising, not proven: {best.label} keeps {share(best)} of the cache and {effect(best)} on {power.n_samples} "
        f"unseen samples; {why.format(allowed=in_points(power.goal))}"
    )
    if needed is None or power.missing is None:
        return f"{said}No number of samples proves {power.goal:g}; as it is, it meets --max-degradation {accept:g}."
    what = "samples" if power.n_contexts == power.n_samples else "contexts"
    return f"{said}About {needed} more {what} would decide; as it is, it meets --max-degradation {accept:g}."


def _no(closest: Candidate | None, power: Power) -> str:
    near = f" The closest, {closest.label}, keeps {share(closest)} and {effect(closest)}." if closest else ""
    return (
        f"Do not adopt: no policy, tuned or known, seems to stay within {in_points(power.goal)} of the full cache on "
        f"{power.n_samples} unseen samples.{near} Keep the full cache, or allow more with --max-degradation."
    )


def _more_contexts(best: Candidate, power: Power) -> int | None:
    """Further contexts until the interval lies within the goal, if they are like those seen; None if none would do."""
    needed = contexts_to_hold(Paired.of(best.differences, best.contexts), power.resolution, power.goal)
    if needed is None:
        return None
    more = max(power.missing or 0, math.ceil((needed - power.n_contexts) / power.report_share))
    return more if more > 0 else power.n_contexts


def _against(one: Candidate, other: Candidate) -> str:
    """How two policies differ on the same samples."""
    if len(one.differences) != len(other.differences) or not len(one.differences):
        return ""
    between = paired_interval(one.differences - other.differences, seed=0, contexts=one.contexts)
    if between.low <= 0 <= between.high:
        return "; in quality the two cannot be told apart"
    return f"; in quality they differ by {abs(between.mean):.2f} points"


def share(candidate: Candidate) -> str:
    """Of the cache that it keeps, such as "7.4%" or "23%"."""
    percent = 100 * candidate.cache_fraction
    return f"{percent:.1f}%" if percent < 10 else f"{percent:.0f}%"


def effect(candidate: Candidate) -> str:
    """What it does to the metric, with the interval."""
    d: Interval = candidate.difference
    if d.mean > 0:
        return f"gains {d.mean:.2f} points (95 % interval {d.low:+.2f} to {d.high:+.2f})"
    return f"loses {-d.mean + 0:.2f} points (95 % interval {-d.high + 0:.2f} to {-d.low + 0:.2f})"
