"""The picture of a study to hover over: one file that also opens without a network."""

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
    Spot,
)
from tuner.reporting.picture import (
    X_LABEL,
    Y_LABEL,
    Picture,
    allowed,
    effect,
    finding,
    hover,
    picture_of,
)
from tuner.search.records import TrialRecord

if TYPE_CHECKING:
    from tuner.judging.contest import Candidate


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

    picture = picture_of(trials, chosen, baseline, quality_name, max_degradation)
    figure = go.Figure()
    _add_trials(figure, picture)
    for policy in picture.proven:
        _add_proven(figure, picture, policy, best=policy is chosen)
    bottom, top = picture.y_range()
    figure.add_hrect(bottom, picture.squash(max_degradation), fillcolor=ALLOWED, line_width=0, layer="below",
                     annotation_text=allowed(max_degradation), annotation_font_color=GOAL)  # fmt: skip
    title, subtitle = finding(chosen, baseline, max_degradation)
    heights, names = picture.y_ticks()
    figure.update_layout(
        template="plotly_white",
        title={"text": f"<b>{title}</b><br><sup>{subtitle.replace(chr(10), ' ')}</sup>", "x": 0.02},
        xaxis={"title": X_LABEL, "range": [0, 102]},
        yaxis={"title": f"{Y_LABEL} (lower is better)", "range": [bottom, top]},
        yaxis_tickvals=heights,
        yaxis_ticktext=names,
        font={"size": 14, "color": INK},
    )
    with whole(path) as beside:
        figure.write_html(beside, include_plotlyjs=True)


def _add_trials(figure: Any, picture: Picture) -> None:
    """Dots of the search, a line per known method, and the front."""
    dots = [point for point, _ in picture.dots]
    texts = [hover(point, trial) for point, trial in picture.dots]
    _add(figure, picture, "trials", dots, texts, mode="markers", marker={"size": 6, "color": DOTS})
    for (name, points), (color, _, mark) in picture.lines():
        look = {"marker": {"symbol": mark, "size": 8, "color": color}, "line": {"color": color, "width": 1.5}}
        _add(figure, picture, name, points, _plain(name, points), mode="lines+markers", **look)
    look = {"line": {"color": FRONT, "width": 3, "shape": "hv"}}
    _add(figure, picture, "best trials", picture.front, _plain("best trial", picture.front), mode="lines", **look)


def _add_proven(figure: Any, picture: Picture, policy: Candidate, best: bool) -> None:
    """A mark, with the interval in its text."""
    point = (100 * policy.cache_fraction, -policy.difference.mean)
    star = {"symbol": "star", "size": 20, "color": CHOSEN, "line": {"color": "white", "width": 1}}
    spread = f"<br>interval of the loss: {-policy.difference.high:.2f} to {-policy.difference.low:.2f}"
    texts = [_plain(policy.label, [point])[0] + spread]
    marker = star if best else {"size": 11, "color": INK}
    _add(figure, picture, policy.label, [point], texts, mode="markers", marker=marker)


def _add(figure: Any, picture: Picture, name: str, points: Sequence[Spot], texts: Sequence[str], **look: Any) -> None:
    x, y = picture.place(points)
    figure.add_scatter(x=x, y=y, name=name, text=texts, hovertemplate="%{text}<extra></extra>", **look)


def _plain(name: str, points: Sequence[Spot]) -> list[str]:
    return [f"<b>{name}</b><br>keeps {kept:.1f} %, {effect(lost)}" for kept, lost in points]
