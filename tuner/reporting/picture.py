"""What the picture of a study shows, whatever it is drawn with: points, lines, axes and the sentence above them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.inputs.power import in_points
from tuner.reporting.canvas import (
    STYLES,
    Spot,
)
from tuner.search.records import TrialRecord

if TYPE_CHECKING:
    from tuner.judging.contest import Candidate

NOTE = "Dots, lines: expected from the KL on search samples. Marks with bars: measured on samples the search never saw."
X_LABEL, Y_LABEL = "share of the cache kept (%)", "points lost against the full cache"
X_TICKS = (0, 20, 40, 60, 80, 100)
Y_TICKS = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
WHOLE = 0.999
"""A share of the cache above this is the full cache."""


@dataclass(frozen=True)
class Picture:
    """What both formats draw. A spot is percent of the cache kept, and points lost.

    dots: every searched trial. front: the best of them. families: the points of each known method, by its name.
    proven: policies with an interval, the chosen one last, so that it lies on top. goal: the allowed loss in points.
    """

    dots: list[tuple[Spot, TrialRecord]]
    front: list[Spot]
    families: dict[str, list[Spot]]
    proven: list[Candidate]
    goal: float

    def squash(self, lost: float) -> float:
        """The height of a loss: linear inside the goal, logarithmic beyond it, where losses span decades."""
        unit = self.goal or 1.0
        size = abs(lost) / unit
        return math.copysign(size if size <= 1 else 1 + math.log10(size), lost)

    def place(self, points: Sequence[Spot]) -> tuple[list[float], list[float]]:
        """Across and up, in the units of the axes."""
        return [kept for kept, _ in points], [self.squash(lost) for _, lost in points]

    def mark(self, policy: Candidate) -> tuple[float, float, float, float]:
        """Where a proven policy stands: across and up, and the ends of its interval, upwards."""
        mean, upper, lower = (self.squash(-end) for end in policy.difference.to_list())
        return 100 * policy.cache_fraction, mean, lower, upper

    def lines(self) -> list[tuple[tuple[str, list[Spot]], tuple[str, str, str]]]:
        """Each baseline with its style."""
        return list(zip(self.families.items(), itertools.cycle(STYLES)))

    def y_range(self) -> tuple[float, float]:
        """Lower and upper end of the axis of the loss."""
        heights = [self.goal, *(lost for (_, lost), _ in self.dots)]
        heights += [lost for points in self.families.values() for _, lost in points]
        heights += [-end for policy in self.proven for end in (policy.difference.low, policy.difference.high)]
        bottom, top = self.squash(min(0.0, *heights)), self.squash(max(heights))
        room = 0.18 * (top - bottom)  # for the captions below the bars
        return bottom - room, top + 0.25

    def y_ticks(self, marked: Sequence[float] = Y_TICKS) -> tuple[list[float], list[str]]:
        """Heights that are marked on this axis, of those that may be, and what is written there."""
        bottom, top = self.y_range()
        ticks = [tick for tick in marked if bottom <= self.squash(tick) <= top]
        return [self.squash(tick) for tick in ticks], [f"{tick:g}" for tick in ticks]


def picture_of(
    trials: Sequence[TrialRecord], chosen: Candidate | None, baseline: Candidate | None, quality_name: str, goal: float
) -> Picture:
    """The picture of a study; see `tuner.reporting.pareto.pareto_png` for the arguments. Without `chosen` nothing is
    proven yet."""
    dots: list[tuple[Spot, TrialRecord]] = []
    families: dict[str, list[Spot]] = {}
    for trial in trials:
        # A known method that was given up early is compared all the same, by what was seen of it.
        if trial.state == "failed" or (trial.state == "pruned" and not trial.is_baseline):
            continue
        point = (100 * trial.metrics["cache_fraction"], trial.metrics[quality_name])
        if not trial.is_baseline:
            dots.append((point, trial))
        elif trial.metrics["cache_fraction"] < 1:  # the full cache itself is where every line ends
            families.setdefault(trial.method, []).append(point)
    front: list[Spot] = []
    for point, _ in sorted(dots, key=lambda dot: dot[0]):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    families = {name: sorted(points) for name, points in families.items()}
    proven = [] if chosen is None else [chosen]
    if chosen is not None and baseline is not None and baseline.label != chosen.label:
        proven = [baseline, chosen]
    return Picture(dots, front, families, proven, goal)


def finding(chosen: Candidate, baseline: Candidate | None, goal: float) -> tuple[str, str]:
    """The title, which says what was found, and the line below it."""
    share, worst = f"{chosen.cache_fraction:.0%}", -chosen.difference.low
    hand = ""
    if baseline is not None:
        kept, end = f"{baseline.cache_fraction:.0%}", -baseline.difference.low
        hand = f"The best known method, {baseline.label}, needs {kept}."
        if end > goal:
            hand = f"The best known method, {baseline.label}, keeps {kept}, but may lose {end:.1f} points."
    if chosen.cache_fraction > WHOLE:
        return f"No smaller cache is sure to lose at most {in_points(goal)}", hand
    mean = effect(-chosen.difference.mean)
    loss = (
        f"On unseen samples it {mean}; at the worst end of its interval it loses {max(worst, 0):.1f}, {goal:g} allowed."
    )
    if worst > goal:
        return f"Not proven: {share} of the cache may lose too much", f"{loss}\n{hand}"
    if baseline is not None and baseline.label == chosen.label:
        hand = f"Tuning found nothing smaller than {baseline.label}."
    return f"{share} of the cache is enough", f"{loss}\n{hand}"


def hover(point: Spot, trial: TrialRecord) -> str:
    """What is told of a trial under the mouse, as HTML."""
    params = "<br>".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                         for name, value in trial.params.items())  # fmt: skip
    return f"<b>trial {trial.number}</b><br>keeps {point[0]:.1f} %, {effect(point[1])}<br>{params}"


def allowed(goal: float) -> str:
    """The goal in words."""
    return f"allowed: at most {in_points(goal)} lost"


def effect(lost: float) -> str:
    """What a policy does, in words, from the points that it loses."""
    return f"gains {-lost:.1f} points" if lost <= -0.05 else f"loses {max(lost, 0):.1f} points"
