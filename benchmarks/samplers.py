"""Which sampler, and what seeds and racing are worth: hypervolume against trials.

    python -m benchmarks.samplers --task knowledge        # 5 samplers and the product's search, 5 seeds, 100 trials

Every sampler starts cold (no baselines, no seeds) in the same space. "search" is what the product does: the profile,
its seeds and baselines, then TPE with racing; "cost" counts evaluations of one sample, the profile's included, over
those of 100 full trials. Random search gets as many trials as that cost buys.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.lab import (
    TASKS,
    Lab,
    cold_points,
    console,
    growth,
    mean_and_error,
    profiled,
    report,
    run_study,
)
from tuner.choices import SAMPLERS
from tuner.search.hypervolume import hypervolume
from tuner.search.objectives import points_of
from tuner.search.space import Space
from tuner.search.study import Plan

LOOKS = (20, 40, 60, 100)


def main() -> None:
    """Parse the command line and print a table per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", nargs="*", default=TASKS)
    parser.add_argument("--sampler", nargs="*", default=SAMPLERS, help="GP takes as long as all others together")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--samples", type=int, default=32)
    options = parser.parse_args()
    for task in options.task:
        compare(task, options.sampler, options.seeds, options.trials, options.samples)


def compare(task: str, samplers: Sequence[str], n_seeds: int, trials: int, n_samples: int) -> None:
    """Run everything on one task and print its table."""
    lab = Lab.of(task, (128, 512))
    engine = lab.engine(0, n_samples)
    space, profile_cost = profiled(Space("groups", True, engine.n_layers), engine)
    curves: dict[str, list[list[float]]] = {
        name: [growth(cold_points(engine, space, name, seed, trials)) for seed in range(n_seeds)]
        for name in dict.fromkeys([*samplers, "random"])
    }
    looks = [look for look in LOOKS if look <= trials]
    whole = trials * n_samples
    searches = [run_study(engine, space, Plan(trials), seed) for seed in range(n_seeds)]
    cost = [(profile_cost + sum(r.metrics["samples_seen"] for r in records)) / whole for records in searches]
    # By number of trial, stopped ones included: they took a trial too.
    curves["search"] = [[hypervolume(points_of(records[:n])) for n in range(1, trials + 1)] for records in searches]
    bought = round(trials * float(np.mean(cost)))
    equal = [growth(cold_points(engine, space, "random", seed, bought))[-1] for seed in range(n_seeds)]
    random_end = float(np.mean([curve[-1] for curve in curves["random"]]))
    table = Table(
        "sampler", *(f"{look} trials" for look in looks), "reaches 100 random at", title=f"Hypervolume, {task}"
    )
    reached = {}
    for name, rows in curves.items():
        mean = np.mean(rows, axis=0)
        at = np.flatnonzero(mean >= random_end)
        reached[name] = int(at[0]) + 1 if len(at) else None
        shown = [mean_and_error([row[look - 1] for row in rows]) for look in looks]
        table.add_row(name, *shown, str(reached[name] or "never"))
    table.add_row(f"random, equal cost ({bought})", *[""] * (len(looks) - 1), mean_and_error(equal), "")
    console.print(table)
    console.print(f"cost of the search over {trials} full trials: {mean_and_error(cost)}; complete trials: "
                  f"{np.mean([len(points_of(records)) for records in searches]):.0f}")  # fmt: skip
    found = {name: {str(look): [row[look - 1] for row in rows] for look in looks} for name, rows in curves.items()}
    report("samplers", {"task": task, "curves": found, "cost": cost, "equal_cost_random": equal, "reached": reached})


if __name__ == "__main__":
    main()
