"""What a warm start saves: trials until a study reaches what a cold one had after 50 trials.

    python -m benchmarks.warm                 # every task from each of the two others, 3 seeds

The seeds are what `--warm-start` takes over: up to 8 points of the other study's front. The profile is measured anew,
as for another task. Hypervolume on the same samples.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.lab import TASKS, Lab, console, mean_and_error, profiled, report
from tuner.measuring.engine import Engine
from tuner.search.hypervolume import hypervolume
from tuner.search.objectives import points_of
from tuner.search.space import Space
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start

TRIALS, LOOK = 100, 50


def run(folder: Path, engine: Engine, space: Space, seed: int, earlier: list[Path]) -> list[float]:
    """Hypervolume after each trial of a study in ``folder``, warm if there are ``earlier`` ones."""
    identity = {"model": "m", "task": folder.name, "data": folder.name}
    study = Study(folder, identity, seed)
    study.run(engine, space, Plan(TRIALS, seeds=read_warm_start(earlier, identity).seeds), lambda _done: None)
    records = study.records()
    return [hypervolume(points_of(records[:n])) for n in range(1, TRIALS + 1)]


def reached(curve: list[float], level: float) -> int:
    """The first trial after which ``curve`` is at ``level``; one more than there are if it never is."""
    return next((n for n, value in enumerate(curve, 1) if value >= level), TRIALS + 1)


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32)
    options = parser.parse_args()
    engines = {task: Lab.of(task, (128, 512)).engine(0, options.samples) for task in TASKS}
    spaces = {task: profiled(Space("groups", True, e.n_layers), e, 1)[0] for task, e in engines.items()}
    table = Table("task", "warm from", f"cold after {LOOK} trials", "warm is there after", "cold at the end",
                  "warm at the end", title="Hypervolume and trials")  # fmt: skip
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cold = {
            (task, seed): run(root / f"{seed}" / task, engines[task], spaces[task], seed, [])
            for task in TASKS
            for seed in range(options.seeds)
        }
        for task in TASKS:
            for other in TASKS:
                if other == task:
                    continue
                ends, trials = [], []
                for seed in range(options.seeds):
                    own = root / f"{seed} from {other}" / task
                    curve = run(own, engines[task], spaces[task], seed, [root / f"{seed}" / other])
                    trials.append(float(reached(curve, cold[task, seed][LOOK - 1])))
                    ends.append(curve[-1])
                own_cold = [cold[task, seed] for seed in range(options.seeds)]
                table.add_row(
                    task, other, mean_and_error([c[LOOK - 1] for c in own_cold]), f"{np.mean(trials):.0f} trials",
                    mean_and_error([c[-1] for c in own_cold]), mean_and_error(ends),
                )  # fmt: skip
                found.append({"task": task, "from": other, "reached": trials, "ends": ends})
    console.print(table)
    report("warm", found)


if __name__ == "__main__":
    main()
