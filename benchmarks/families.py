"""How much smaller the cache gets from uniform to per layer to per KV head, at the same quality.

    python -m benchmarks.families                # 100 trials each on the three bundled tasks

Each is a whole study with the product's own choice (goal: 1 point of token accuracy): searched on 128 samples, chosen
on 512, and then measured on 512 that nobody has seen.
"""

from __future__ import annotations

import argparse

from rich.table import Table

from benchmarks.lab import TASKS, Lab, console, profiled, report, tune
from tuner.judging.proof import climb
from tuner.search.space import Space

LEVELS = {"uniform": ("uniform", False), "per layer": ("groups", False), "per head": ("groups", True)}


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", nargs="*", default=TASKS)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--goal", type=float, default=1.0)
    options = parser.parse_args()
    table = Table("task", *LEVELS, "layer / uniform", "head / layer", "by hand", title="Cache kept within the goal")
    for task in options.task:
        kept, cells = {}, []
        lab = Lab.of(task, (128, 1024))
        search, select, unseen = lab.engine(0, 128), lab.engine(128, 512), lab.engine(640, 512)
        for level, (family, per_head) in LEVELS.items():
            space, _ = profiled(Space(family, per_head, search.n_layers), search)
            choice = tune(lab, search, select, 512, space, options.goal, 0, options.trials)
            contest = lab.contest(options.goal, unseen)
            (tuned, _), (known, _) = climb(contest, choice.picked), climb(contest, choice.known)
            best, by_hand = tuned and tuned.best, known and known.best
            kept[level] = best.cache_fraction if tuned and best and tuned.proven else 1.0
            cells.append(f"{kept[level]:.1%}\n{best.difference if best else ''}")
            hand = f"{by_hand.label}\n{by_hand.cache_fraction:.1%} {by_hand.difference}" if by_hand else ""
        ratios = kept["per layer"] / kept["uniform"], kept["per head"] / kept["per layer"]
        table.add_row(task, *cells, *(f"{ratio:.2f}" for ratio in ratios), hand)
        report("families", {"task": task, "kept": kept, "ratios": ratios})
    console.print(table)


if __name__ == "__main__":
    main()
