"""How far a search of 100 trials ends from the truth, on a grid small enough to try every policy.

    python -m benchmarks.grid

Four layers, six budgets each, five half-lives: 6,480 policies, all measured. The search is the product's, in its
per-layer space, with what it proposes moved to the nearest point of the grid. The gap is how much more of the cache the
search needs than the best policy of the grid, at several allowed losses; 5 seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from a2sf_core import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from benchmarks.lab import Lab, console, profiled, report, run_study
from tuner.search.objectives import points_of
from tuner.search.records import Params
from tuner.search.space import Space
from tuner.search.study import Plan

BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
HALF_LIVES = (2.0, 12.0, 48.0, 192.0, math.inf)
RECENT, SINK = 0.25, 2
LOSSES = (0.005, 0.01, 0.02, 0.05, 0.1)


def grid_policy(budgets: tuple[float, ...], half_life: float) -> Policy:
    """One point of the grid."""
    return Policy(tuple(LayerPolicy(Decay(half_life), budget, RECENT, SINK) for budget in budgets))


@dataclass(frozen=True)
class GridSpace(Space):
    """The product's space with its policies moved to the grid."""

    def policy(self, params: Params) -> Policy:
        """The nearest point of the grid, on a log scale; one half-life for all layers."""
        one_rule = {name: 0 for name in params if name.startswith("half_life_group")}
        layers = super().policy({**params, **one_rule, "rule": "decay", "rule_profile": 0}).layers
        budgets = tuple(min(BUDGETS, key=lambda b: abs(math.log(b / _share(layer)))) for layer in layers)
        assert isinstance(layers[0].rule, Decay)
        wanted = math.log2(1 + min(layers[0].rule.half_life, 4096))
        return grid_policy(budgets, min(HALF_LIVES, key=lambda h: abs(math.log2(1 + min(h, 4096)) - wanted)))


def _share(layer: LayerPolicy) -> float:
    assert isinstance(layer.budget, float)
    return layer.budget


def smallest(points: list[tuple[float, float]], loss: float) -> float:
    """The smallest cache whose loss is allowed; 1 if there is none."""
    return min((memory for memory, lost in points if lost <= loss), default=1.0)


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="knowledge")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    lab = Lab.of(options.task, (128, 512))
    engine = lab.engine(0, options.samples)
    full = engine.evaluate(Policy.full(engine.n_layers))
    everything = []
    for *budgets, half_life in itertools.product(*[BUDGETS] * engine.n_layers, HALF_LIVES):
        losses = engine.evaluate(grid_policy(tuple(budgets), half_life))
        everything.append((float(losses.cache_fraction.mean()), float((losses.nll - full.nll).mean())))
    profile_space, _ = profiled(Space("groups", False, engine.n_layers), engine, 1)
    space = GridSpace(profile_space.family, False, engine.n_layers, profile_space.profile)
    gaps = []
    for seed in range(options.seeds):
        found = points_of(run_study(engine, space, Plan(100), seed))
        gaps.append([smallest(found, loss) - smallest(everything, loss) for loss in LOSSES])
    table = Table("allowed loss, nats", "grid's best cache", "gap of the search, mean", "largest",
                  title=f"{len(everything)} policies against 100 trials, {options.task}")  # fmt: skip
    for place, loss in enumerate(LOSSES):
        column = [row[place] for row in gaps]
        table.add_row(
            f"{loss:g}", f"{smallest(everything, loss):.3f}", f"{np.mean(column):+.3f}", f"{max(column):+.3f}"
        )
    console.print(table)
    report("grid", {"policies": len(everything), "losses": LOSSES, "gaps": gaps})


if __name__ == "__main__":
    main()
