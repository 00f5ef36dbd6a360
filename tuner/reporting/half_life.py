"""The picture of how much the half-life matters, and where it is best for short and long prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from a2sf_core.files import whole
from tuner.reporting.canvas import STYLES, canvas, name_lines


def half_life_png(path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], measured: str) -> None:
    """Draw the loss against the half-life, one curve per group of prompts: `{label: (half_lives, losses)}`.

    `measured` says in a few words on what, for the line below the title.
    """
    points = {
        label: [(half_life, loss) for half_life, loss in zip(*curve, strict=True) if math.isfinite(loss)]
        for label, curve in curves.items()
    }
    points = {label: sorted(curve) for label, curve in points.items() if curve}
    best = {label: min(curve, key=lambda point: point[1]) for label, curve in points.items()}
    values = sorted({half_life for curve in points.values() for half_life, _ in curve})
    finite = [math.log2(value) for value in values if 0 < value < math.inf] or [0.0]
    edges = {0.0: min(finite) - 1.5, math.inf: max(finite) + 1.5}  # where a log axis has no place for them

    def place(half_life: float) -> float:
        return edges[half_life] if half_life in edges else math.log2(half_life)

    shown = [value for value in values if value in edges or math.log2(value) % 2 == 0]
    names = {0.0: "0\n(last query only)", math.inf: "∞\n(never forgets)"}
    stars = ["∞" if half_life == math.inf else f"{half_life:g}" for half_life, _ in best.values()]
    title = f"Best half-life by length of the prompt: {', '.join(stars)} tokens"
    if len(set(stars)) == 1:
        title = f"The best half-life is {stars[0]} tokens at every length"
    figure, axes = canvas(title, f"{measured}; stars mark the lowest loss of each group of prompts.")
    ends = []
    for (label, curve), (color, mark, _) in zip(points.items(), itertools.cycle(STYLES)):
        xs, ys = [place(half_life) for half_life, _ in curve], [loss for _, loss in curve]
        axes.plot(xs, ys, color=color, marker=mark, ms=5, lw=1.8, mec="white", mew=0.5)
        axes.plot(place(best[label][0]), best[label][1], "*", color=color, ms=20, mec="white", zorder=5)
        ends.append(((xs[-1], ys[-1]), label, color))
    axes.set_xticks([place(v) for v in shown], [names.get(v, f"{v:g}") for v in shown])
    axes.set_xlim(edges[0.0] - 0.4, edges[math.inf] + 0.4 * (max(finite) - min(finite)))
    axes.set(xlabel="half-life of old attention (tokens)", ylabel="loss in nats per token (lower is better)")
    name_lines(axes, ends, left=False)
    with whole(path) as beside:
        figure.savefig(beside, dpi=200)
