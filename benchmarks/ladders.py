"""Does the error of a ladder stay where it is promised? Many reports of policies whose true losses are known.

    python -m benchmarks.ladders                 # 20,000 reports of each ladder and size

Whole answers, each lost or not, a goal of 4 points. A ladder is climbed as the product does: the safest rung first, on
while the lower end of the interval is within the goal. It errs if the rung that it ends at truly loses more. Rungs
lose the same answers and more (nested), as those of one shape do, or each its own.
"""

from __future__ import annotations

import argparse
from functools import cache

import numpy as np
from rich.table import Table
from scipy import stats

from benchmarks.lab import console, report
from tuner.judging.intervals import paired_interval

GOAL, SIZES = 4.0, (99, 156, 400)
LADDERS = {
    "one rung, just beyond": (4.01,),
    "safe, then just beyond": (0.1, 4.01),
    "in small steps across": (0.5, 1.0, 2.0, 3.0, 3.9, 4.01, 4.5, 5.0, 6.0),
    "steep": (0.05, 0.5, 5.0, 15.0),
    "many just beyond": (4.01,) * 9,
}


@cache
def low(n: int, lost: int) -> float:
    """The lower end of the interval of ``n`` answers of which so many were lost."""
    differences = np.zeros(n)
    differences[:lost] = -100.0
    return paired_interval(differences, 0, 100.0).low


def climbed(losses: np.ndarray) -> np.ndarray:
    """The rung that each report ends at, -1 for none: from ``[report, rung, answer]`` of bool."""
    n = losses.shape[-1]
    holds = np.vectorize(lambda lost: low(n, int(lost)) >= -GOAL)(losses.sum(-1))  # [report, rung]
    return holds.cumprod(-1).sum(-1) - 1


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--reports", type=int, default=20_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = Table("ladder", *(f"{n} answers" for n in SIZES), title="Exported beyond the goal; anything proven")
    for name, points in LADDERS.items():
        chance = np.array(points)[:, None] / 100  # [rung, 1]
        for nested in (True, False) if len(points) > 1 else (True,):
            cells = []
            for n in SIZES:
                ends = []
                for _ in range(0, options.reports, 1000):
                    draws = rng.random((1000, 1 if nested else len(points), n))
                    ends.append(climbed(draws < chance))
                end = np.concatenate(ends)
                wrong = int(((end >= 0) & (np.array(points)[end] > GOAL)).sum())
                lower, upper = stats.binomtest(wrong, len(end)).proportion_ci()
                cells.append(f"{wrong / len(end):.2%} [{lower:.2%}, {upper:.2%}]; {(end >= 0).mean():.0%}")
            table.add_row(f"{name}, {'nested' if nested else 'independent'}", *cells)
            report("ladders", {"ladder": name, "nested": nested, "cells": cells})
    console.print(table)


if __name__ == "__main__":
    main()
