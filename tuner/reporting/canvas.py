"""What the pictures share: paper, colours and marks, names beside lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours, which colour-blind readers can tell apart; every line has a mark of its own besides.
CHOSEN, FRONT, DOTS, ALLOWED, GOAL, INK = "#D55E00", "#0072B2", "#BCC2CA", "#E6F4EE", "#00694D", "#30343A"
STYLES = (  # colour, matplotlib's mark, plotly's mark
    ("#009E73", "s", "square"),
    ("#B8578F", "D", "diamond"),
    ("#A87900", "v", "triangle-down"),
    ("#3A9BD1", "^", "triangle-up"),
    ("#30343A", "P", "cross"),
    ("#7D62C3", "X", "x"),
    ("#C2484F", "<", "triangle-left"),
    ("#8B9199", "p", "pentagon"),
)
Spot = tuple[float, float]
"""A place in a picture: across and up, in the units of its axes."""


def canvas(title: str, subtitle: str) -> tuple[Figure, Axes]:
    """An empty picture of 1600 pixels with its title, and the axes to draw on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a screen
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.15, 0.885, 0.665))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#EDEFF2", lw=0.8)
    axes.set_axisbelow(True)
    figure.text(0.012, 0.94, title, fontsize=15, fontweight="bold", color=INK)
    figure.text(0.012, 0.915, subtitle, fontsize=10.5, color="#555B63", va="top", linespacing=1.4)
    return figure, axes


def name_lines(axes: Axes, ends: Sequence[tuple[Spot, str, str]], left: bool) -> None:
    """Write every line's name beside its end, pushed apart where two names would overlap."""
    free = math.inf
    for place, name, color in sorted(ends, key=lambda end: -end[0][1]):
        height = axes.transData.transform(place)[1] * 72 / axes.figure.dpi
        free = min(height, free - 12.5)
        axes.annotate(
            name, place, (-7 if left else 9, free - height), textcoords="offset points", color=color, fontsize=10,
            ha="right" if left else "left", va="center", fontweight="bold", path_effects=halo("white"), zorder=5,
        )  # fmt: skip


def halo(color: str) -> list[Any]:
    """An effect that keeps text readable on top of lines: an outline of `color`."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground=color)]
