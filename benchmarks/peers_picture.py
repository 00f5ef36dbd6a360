"""KL against the share of the cache that is kept, one line per method, for people who read no tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.reporting.canvas import CHOSEN, FRONT, INK, STYLES, name_lines

PANELS = {"reference": "Along the reference answer", "own": "Along what the model itself writes"}


def draw(found: Sequence[dict[str, Any]], lead: str, title: str, subtitle: str, file: Path) -> None:
    """`found` are the rows of all shares and both texts; `lead` is drawn boldly."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(13, 6.6), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.012, 0.945, title, fontsize=16, fontweight="bold", color=INK)
    figure.text(0.012, 0.922, subtitle, fontsize=10.5, color="#555B63", va="top", linespacing=1.4)
    shares = sorted({row["share"] for row in found})
    for place, (text, name) in enumerate(PANELS.items()):
        axes = figure.add_axes((0.055 + 0.5 * place, 0.095, 0.295, 0.69))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#EDEFF2", lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(name, loc="left", fontsize=11.5, color=INK)
        ends = []
        for style, method in enumerate(_by_last(found, text)):
            own = sorted((r for r in found if r["text"] == text and r["method"] == method), key=lambda r: r["share"])
            color, mark = _style(method, lead, style)
            x, y = [row["share"] for row in own], [row["kl"][0] for row in own]
            strong = method == lead
            axes.plot(
                x, y, color=color, marker=mark, lw=3 if strong else 1.3, ms=7 if strong else 4.5, zorder=3 + strong
            )
            low, high = [max(row["kl"][1], 1e-4) for row in own], [row["kl"][2] for row in own]
            axes.fill_between(x, low, high, color=color, alpha=0.22 if strong else 0.07, lw=0)
            ends.append(((x[-1], y[-1]), method, color))
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("share of the cache that is kept", color=INK)
        if not place:
            axes.set_ylabel("KL to the full cache, nats per token (less is better)", color=INK)
        name_lines(axes, ends, left=False)
    figure.savefig(file, dpi=130)


def _by_last(found: Sequence[dict[str, Any]], text: str) -> list[str]:
    """The methods by their names, so that colours are the same in both panels."""
    return sorted({row["method"] for row in found if row["text"] == text})


def _style(method: str, lead: str, place: int) -> tuple[str, str]:
    if method == lead:
        return CHOSEN, "o"
    if method == "KVzip":
        return FRONT, "s"
    color, mark, _ = STYLES[place % len(STYLES)]
    return color, mark
