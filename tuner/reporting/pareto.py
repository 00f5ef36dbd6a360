"""The pictures of a study: what was found (PNG and HTML), and how much the half-life matters (PNG)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.reporting.canvas import (
    ALLOWED,
    CHOSEN,
    DOTS,
    FRONT,
    GOAL,
    INK,
    STYLES,
    Spot,
    canvas,
    halo,
    name_lines,
)
from tuner.search.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tuner.judging.contest import Candidate

_NOTE = (
    "Dots, lines: token accuracy, search samples. Marks with bars: the task's metric on samples the search never saw."
)
_X_LABEL, _Y_LABEL = "share of the cache kept (%)", "points lost against the full cache"
_X_TICKS = (0, 20, 40, 60, 80, 100)
_Y_TICKS = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class _Picture:
    """What both formats draw."""

    dots: list[tuple[Spot, TrialRecord]]
    front: list[Spot]
    families: dict[str, list[Spot]]
    proven: list[Candidate]  # the chosen policy last, so that it lies on top
    goal: float

    def squash(self, lost: float) -> float:
        """The height of a loss: linear inside the goal, logarithmic beyond it, where losses span decades."""
        unit = self.goal or 1.0
        size = abs(lost) / unit
        return math.copysign(size if size <= 1 else 1 + math.log10(size), lost)

    def place(self, points: Sequence[Spot]) -> tuple[list[float], list[float]]:
        return [kept for kept, _ in points], [self.squash(lost) for _, lost in points]

    def lines(self) -> list[tuple[tuple[str, list[Spot]], tuple[str, str, str]]]:
        """Each baseline with its style."""
        return list(zip(self.families.items(), itertools.cycle(STYLES)))

    def y_range(self) -> tuple[float, float]:
        heights = [self.goal, *(lost for (_, lost), _ in self.dots)]
        heights += [lost for points in self.families.values() for _, lost in points]
        heights += [-end for policy in self.proven for end in (policy.difference.low, policy.difference.high)]
        bottom, top = self.squash(min(0.0, *heights)), self.squash(max(heights))
        room = 0.18 * (top - bottom)  # for the captions below the bars
        return bottom - room, top + 0.25

    def y_ticks(self) -> tuple[list[float], list[str]]:
        bottom, top = self.y_range()
        ticks = [tick for tick in _Y_TICKS if bottom <= self.squash(tick) <= top]
        return [self.squash(tick) for tick in ticks], [f"{tick:g}" for tick in ticks]


def pareto_png(
    path: Path,
    trials: Sequence[TrialRecord],
    chosen: Candidate,
    baseline: Candidate | None,
    quality_name: str,
    max_degradation: float,
) -> None:
    """Draw the quality lost against the cache kept.

    Args:
        trials: all trials of the study. A label such as "h2o 0.4" makes a trial one point of the line "h2o".
        chosen: the policy that the study hands over, measured on the report split.
        baseline: the best that can be set by hand, measured on the same samples, or None.
        quality_name: the metric of `trials` to draw: points lost against the full cache, lower is better.
        max_degradation: the goal, in the same points.
    """
    picture = _picture(trials, chosen, baseline, quality_name, max_degradation)
    figure, axes = canvas(*_finding(chosen, baseline, max_degradation))
    goal = picture.squash(max_degradation)
    bottom, top = picture.y_range()
    axes.axhspan(bottom, goal, color=ALLOWED, lw=0, zorder=0)
    axes.axhline(goal, color="#009E73", lw=1, zorder=1)
    axes.text(101, goal - 0.05, _allowed(max_degradation), ha="right", va="top", color=GOAL, fontsize=9.5)
    axes.scatter(*picture.place([point for point, _ in picture.dots]), s=16, color=DOTS, lw=0, zorder=2)
    for (_, points), (color, mark, _) in picture.lines():
        axes.plot(*picture.place(points), color=color, marker=mark, ms=5.5, lw=1.4, mec="white", mew=0.5, zorder=3)
    axes.plot(*picture.place(picture.front), color=FRONT, lw=2.8, drawstyle="steps-post", zorder=4)
    for policy in picture.proven:
        _draw_proven(axes, picture, policy, best=policy is chosen)
    axes.set(xlabel=_X_LABEL, xticks=_X_TICKS, xlim=(-17, 103), ylim=(bottom, top))
    axes.set_ylabel(f"{_Y_LABEL}\n(lower is better)")
    axes.set_yticks(*picture.y_ticks())
    starts = [(points[0], name, style[0]) for (name, points), style in picture.lines()]
    starts += [(picture.front[0], "tuned", FRONT)] if picture.front else []
    name_lines(axes, [((x, picture.squash(y)), name, color) for (x, y), name, color in starts], left=True)
    figure.text(0.012, 0.014, _NOTE, fontsize=8.5, color="#666C75")
    figure.savefig(path, dpi=200)


def pareto_html(
    path: Path,
    trials: Sequence[TrialRecord],
    chosen: Candidate,
    baseline: Candidate | None,
    quality_name: str,
    max_degradation: float,
) -> None:
    """Draw the same as `pareto_png`, to hover over: one file that also opens without a network."""
    import plotly.graph_objects as go

    picture = _picture(trials, chosen, baseline, quality_name, max_degradation)
    title, subtitle = _finding(chosen, baseline, max_degradation)
    figure = go.Figure()

    def add(name: str, points: Sequence[Spot], texts: Sequence[str], **look: Any) -> None:
        x, y = picture.place(points)
        figure.add_scatter(x=x, y=y, name=name, text=texts, hovertemplate="%{text}<extra></extra>", **look)

    def plain(name: str, points: Sequence[Spot]) -> list[str]:
        return [f"<b>{name}</b><br>keeps {kept:.1f} %, {_effect(lost)}" for kept, lost in points]

    dots = [point for point, _ in picture.dots]
    texts = [_hover(point, trial) for point, trial in picture.dots]
    add("trials", dots, texts, mode="markers", marker={"size": 6, "color": DOTS})
    for (name, points), (color, _, mark) in picture.lines():
        look = {"marker": {"symbol": mark, "size": 8, "color": color}, "line": {"color": color, "width": 1.5}}
        add(name, points, plain(name, points), mode="lines+markers", **look)
    look = {"line": {"color": FRONT, "width": 3, "shape": "hv"}}
    add("best trials", picture.front, plain("best trial", picture.front), mode="lines", **look)
    for policy in picture.proven:
        point = (100 * policy.cache_fraction, -policy.difference.mean)
        star = {"symbol": "star", "size": 20, "color": CHOSEN, "line": {"color": "white", "width": 1}}
        spread = f"<br>interval of the loss: {-policy.difference.high:.2f} to {-policy.difference.low:.2f}"
        text = plain(policy.label, [point])[0] + spread
        add(
            policy.label,
            [point],
            [text],
            mode="markers",
            marker=star if policy is chosen else {"size": 11, "color": INK},
        )
    bottom, top = picture.y_range()
    figure.add_hrect(bottom, picture.squash(max_degradation), fillcolor=ALLOWED, line_width=0, layer="below",
                     annotation_text=_allowed(max_degradation), annotation_font_color=GOAL)  # fmt: skip
    heights, names = picture.y_ticks()
    figure.update_layout(
        template="plotly_white",
        title={"text": f"<b>{title}</b><br><sup>{subtitle.replace(chr(10), ' ')}</sup>", "x": 0.02},
        xaxis={"title": _X_LABEL, "range": [0, 102]},
        yaxis={"title": f"{_Y_LABEL} (lower is better)", "range": [bottom, top]},
        yaxis_tickvals=heights,
        yaxis_ticktext=names,
        font={"size": 14, "color": INK},
    )
    figure.write_html(path, include_plotlyjs=True)


def _picture(
    trials: Sequence[TrialRecord], chosen: Candidate, baseline: Candidate | None, quality_name: str, goal: float
) -> _Picture:
    dots: list[tuple[Spot, TrialRecord]] = []
    families: dict[str, list[Spot]] = {}
    for trial in trials:
        if trial.state != "complete":
            continue
        point = (100 * trial.metrics["cache_fraction"], trial.metrics[quality_name])
        if not trial.is_baseline:
            dots.append((point, trial))
        elif trial.metrics["cache_fraction"] < 1:  # the full cache itself is where every line ends
            families.setdefault(_family(trial.label), []).append(point)
    front: list[Spot] = []
    for point, _ in sorted(dots, key=lambda dot: dot[0]):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    families = {name: sorted(points) for name, points in families.items()}
    proven = [chosen] if baseline is None or baseline.label == chosen.label else [baseline, chosen]
    return _Picture(dots, front, families, proven, goal)


def _finding(chosen: Candidate, baseline: Candidate | None, goal: float) -> tuple[str, str]:
    """The title, which says what was found, and the line below it."""
    share, worst = f"{chosen.cache_fraction:.0%}", -chosen.difference.low
    hand = ""
    if baseline is not None:
        kept, end = f"{baseline.cache_fraction:.0%}", -baseline.difference.low
        hand = f"The best setting by hand, {baseline.label}, needs {kept}."
        if end > goal:
            hand = f"The best setting by hand, {baseline.label}, keeps {kept}, but may lose {end:.1f} points."
    if chosen.cache_fraction > 0.999:
        return f"No smaller cache is sure to lose at most {_points(goal)}", hand
    mean = _effect(-chosen.difference.mean)
    loss = (
        f"On unseen samples it {mean}; at the worst end of its interval it loses {max(worst, 0):.1f}, {goal:g} allowed."
    )
    if worst > goal:
        return f"Not proven: {share} of the cache may lose too much", f"{loss}\n{hand}"
    if baseline is not None and baseline.label == chosen.label:
        hand = f"Tuning found nothing smaller than {baseline.label}."
    return f"{share} of the cache is enough", f"{loss}\n{hand}"


_CAPTION_WIDTH = 24
"""Percent of the cache, on the axis, that the caption takes beside the mark of the chosen policy."""


def _draw_proven(axes: Axes, picture: _Picture, policy: Candidate, best: bool) -> None:
    """A mark with its interval and a caption."""
    family = {name: style[0] for (name, _), style in picture.lines()}.get(_family(policy.label), INK)
    color, mark, size = (CHOSEN, "*", 22) if best else (family, "o", 9)
    x, y = 100 * policy.cache_fraction, picture.squash(-policy.difference.mean)
    low, high = picture.squash(-policy.difference.high), picture.squash(-policy.difference.low)
    axes.errorbar(
        x, y, [[y - low], [high - y]], color=color, marker=mark, ms=size, mec="white", capsize=4, lw=1.8, zorder=6
    )
    look: dict[str, Any] = {
        "color": color,
        "zorder": 7,
        "fontweight": "bold",
        "path_effects": halo(ALLOWED if high <= 1 else "white"),
    }
    if not best:
        axes.annotate(
            f"{_family(policy.label)}\nneeds {policy.cache_fraction:.0%}", (x, high), (0, 6), fontsize=10, va="bottom",
            textcoords="offset points", ha="center" if 12 < x < 90 else "right" if x >= 90 else "left", **look,
        )  # fmt: skip
        return
    # The front falls to the right, so the corner to the left of it and below is free.
    text = f"keeps {policy.cache_fraction:.0%} of the cache,\n{_effect(-policy.difference.mean)}"
    if x < _CAPTION_WIDTH:
        axes.annotate(text, (-15, picture.y_range()[0]), (0, 6), textcoords="offset points", fontsize=12, **look)
    else:
        axes.annotate(text, (x, y), (-14, -4), textcoords="offset points", fontsize=12, ha="right", va="top", **look)


def _family(label: str) -> str:
    """The method in a label: "h2o" of "h2o 0.4"."""
    return re.sub(r" [\d.]+$", "", label)


def _hover(point: Spot, trial: TrialRecord) -> str:
    params = "<br>".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                         for name, value in trial.params.items())  # fmt: skip
    return f"<b>trial {trial.number}</b><br>keeps {point[0]:.1f} %, {_effect(point[1])}<br>{params}"


def _allowed(goal: float) -> str:
    return f"allowed: at most {_points(goal)} lost"


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def _effect(lost: float) -> str:
    return f"gains {-lost:.1f} points" if lost <= -0.05 else f"loses {max(lost, 0):.1f} points"
