"""KL against the share of the cache that is kept, one line per method, for people who read no tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kvpress_env import REREADS
from tuner.reporting.canvas import CHOSEN, FRONT, INK, STYLES, name_lines

LEAST = 1e-3
"""Nats below which a band is cut off."""
SAID = 0.2
"""The share that is put into words."""
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
    lows, highs = [row["kl"][1] for row in found], [row["kl"][2] for row in found]
    bounds = max(min(lows), LEAST) * 0.85, max(highs) * 1.15
    for place, (text, name) in enumerate(PANELS.items()):
        axes = figure.add_axes((0.055 + 0.495 * place, 0.095, 0.285, 0.69))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#EDEFF2", lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(*bounds)  # the same for both texts
        axes.set_title(f"{name}\n{in_short(found, lead, text)}", loc="left", fontsize=10.5, color=INK, linespacing=1.5)
        ends = []
        for style, method in enumerate(_by_last(found, text)):
            own = sorted((r for r in found if r["text"] == text and r["method"] == method), key=lambda r: r["share"])
            color, mark, line = _style(method, lead, style)
            x, y = [row["share"] for row in own], [row["kl"][0] for row in own]
            strong = method == lead
            axes.plot(
                x,
                y,
                color=color,
                marker=mark,
                ls=line,
                lw=3 if strong else 1.3,
                ms=7 if strong else 4.5,
                zorder=3 + strong,
            )
            low, high = [max(row["kl"][1], LEAST) for row in own], [row["kl"][2] for row in own]
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


def _style(method: str, lead: str, place: int) -> tuple[str, str, str]:
    if method == lead:
        return CHOSEN, "o", "-"
    if method == REREADS:
        return FRONT, "s", "-"
    color, mark, _ = STYLES[place % len(STYLES)]
    return color, mark, "-" if place < len(STYLES) else "--"


def in_short(found: Sequence[dict[str, Any]], lead: str, text: str) -> str:
    """One line: ours, KVzip and the best press of one reading at `SAID`; empty if that was not measured."""
    kl = {row["method"]: row["kl"][0] for row in found if row["text"] == text and row["share"] == SAID}
    if lead not in kl:
        return ""
    said = [f"ours {kl[lead]:.3f}"] + [f"KVzip {kl[REREADS]:.3f}"] * (REREADS in kl)
    once = [value for name, value in kl.items() if name != REREADS and not name.startswith("ours")]
    said += [f"best press of one reading {min(once):.3f}"] if once else []
    return f"at {SAID:.0%}: {', '.join(said)}"
