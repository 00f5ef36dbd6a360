"""The picture of a study as it is printed: what was tried, what was proven, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.files import whole
from tuner.reporting.canvas import (
    ALLOWED,
    CHOSEN,
    DOTS,
    FRONT,
    GOAL,
    INK,
    canvas,
    halo,
    name_lines,
)
from tuner.reporting.picture import (
    NOTE,
    X_LABEL,
    X_TICKS,
    Y_LABEL,
    Picture,
    allowed,
    effect,
    finding,
    picture_of,
)
from tuner.search.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tuner.judging.contest import Candidate
_CAPTION_WIDTH = 24
"""Percent of the cache, on the axis, that the caption takes beside the mark of the chosen policy."""

_NAME_WIDTH, _FRONT_NAME_WIDTH = 36, 11
"""Percent of the cache, on the axis, that the name of a known method takes, and that of what was tuned."""
_NEAR_EDGE = 85
"""Share of the cache, in percent, beyond which a centred name would run over the edge of the picture."""
_EDGE = 102
"""Where such a name ends, in percent."""
_ROOM = 0.12
"""Part of the picture's height that a name above a bar takes, and the words below the line of the goal."""


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
        trials: all trials of the study; those of one known method are one line.
        chosen: the policy that the study hands over, measured on the report split.
        baseline: the best that can be set by hand, measured on the same samples, or None.
        quality_name: the metric of `trials` to draw: points lost against the full cache, lower is better.
        max_degradation: the goal, in the same points.
    """
    picture = picture_of(trials, chosen, baseline, quality_name, max_degradation)
    figure, axes = canvas(*finding(chosen, baseline, max_degradation))
    goal = picture.squash(max_degradation)
    bottom, top = picture.y_range()
    axes.axhspan(bottom, goal, color=ALLOWED, lw=0, zorder=0)
    axes.axhline(goal, color="#009E73", lw=1, zorder=1)
    axes.text(101, goal - 0.05, allowed(max_degradation), ha="right", va="top", color=GOAL, fontsize=9.5)
    axes.scatter(*picture.place([point for point, _ in picture.dots]), s=16, color=DOTS, lw=0, zorder=2)
    for (_, points), (color, mark, _) in picture.lines():
        axes.plot(*picture.place(points), color=color, marker=mark, ms=5.5, lw=1.4, mec="white", mew=0.5, zorder=3)
    axes.plot(*picture.place(picture.front), color=FRONT, lw=2.8, drawstyle="steps-post", zorder=4)
    for policy in picture.proven:
        _draw_proven(axes, picture, policy, goal, best=policy is chosen)
    start = min(picture.front[0][0] - _FRONT_NAME_WIDTH, 0) if picture.front else 0
    axes.set(xlabel=X_LABEL, xticks=X_TICKS, xlim=(start - 2, 103), ylim=(bottom, top))
    axes.set_ylabel(f"{Y_LABEL}\n(lower is better)")
    axes.set_yticks(*picture.y_ticks())
    captioned = {policy.method for policy in picture.proven}  # these have their name at their mark
    ends = [(points[-1], name, style[0]) for (name, points), style in picture.lines() if name not in captioned]
    name_lines(axes, [((x, picture.squash(y)), name, color) for (x, y), name, color in ends], left=False)
    if picture.front:
        x, y = picture.front[0]
        name_lines(axes, [((x, picture.squash(y)), "tuned", FRONT)], left=True)
    figure.text(0.012, 0.014, NOTE, fontsize=8.5, color="#666C75")
    with whole(path) as beside:
        figure.savefig(beside, dpi=200)


def _draw_proven(axes: Axes, picture: Picture, policy: Candidate, goal: float, best: bool) -> None:
    """A mark with its interval and a caption; `goal` is the height of the line that it should stay below."""
    family = {name: style[0] for (name, _), style in picture.lines()}.get(policy.method, INK)
    color, mark, size = (CHOSEN, "*", 22) if best else (family, "o", 9)
    x, y, low, high = picture.mark(policy)
    bottom, top = picture.y_range()
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
        # Beside its bar, as above it comes its own line; far to the right that has ended, but the front may run there.
        caption, is_left = f"{policy.method or policy.label} needs {policy.cache_fraction:.0%}", x < 70
        align = "left" if is_left else "right" if x > _NEAR_EDGE else "center"
        anchor = _EDGE if align == "right" else x
        left = anchor - _NAME_WIDTH * (1 if align == "right" else 0.5)
        room = _ROOM * (top - bottom)
        # Above its bar may be the line of the goal with its words, or the front.
        is_full = 0 <= goal - high < room or _front_crosses(picture, (left, left + _NAME_WIDTH), (high, high + room))
        end, up = (low, -12) if is_full else (high, 12)
        spot, offset = ((x, y), (9, 0)) if is_left else ((anchor, end), (0, up))
        axes.annotate(caption, spot, offset, fontsize=10, textcoords="offset points", va="center", ha=align, **look)
        return
    # Below nothing there is room under the whole picture: no front, no line.
    text = f"keeps {policy.cache_fraction:.0%} of the cache,\n{effect(-policy.difference.mean)}"
    middle = min(max(x, _CAPTION_WIDTH / 2 - 12), 100 - _CAPTION_WIDTH / 2)
    axes.annotate(text, (middle, bottom), (0, 6), textcoords="offset points", fontsize=12, ha="center", **look)


def _front_crosses(picture: Picture, across: tuple[float, float], up: tuple[float, float]) -> bool:
    """Whether a step of the front, or the way down from it, runs through a box of the axes."""
    heights = [picture.squash(lost) for _, lost in picture.front]
    steps = zip(picture.front, picture.front[1:], heights, heights[1:], strict=False)
    return any(
        start[0] < across[1] and across[0] < end[0] and lower < up[1] and up[0] < higher
        for start, end, higher, lower in steps
    )
