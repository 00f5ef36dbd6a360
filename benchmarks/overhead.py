"""What a trial costs beside the model: Optuna with its journal, per sampler, and MLflow.

    python benchmarks/overhead.py                # 100 trials, 10 parameters, two objectives that compute nothing
    python benchmarks/overhead.py --skip gp      # which alone takes most of the time

Optuna: ask, ten suggests, the attribute that `tuner.search.study` keeps, tell, and the one write to the journal.
MLflow: `Tracker.sync` every 20 trials of all trials so far, 10 parameters, 8 metrics and 6 tags each, while the front
moves. Opening the two, once per study, is not counted. CPU time is of this process; wall time waits for the disk too.
Each is the fastest of three runs, since other work on the machine disturbs them; GP runs once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

from a2sf_core import Policy
from a2sf_core.rules.attention import Decay
from tuner.choices import SAMPLERS
from tuner.search.records import TrialRecord
from tuner.search.samplers import make_sampler
from tuner.tracking.tracker import Tracker

PARAMS = [f"parameter_{i}" for i in range(10)]
REPEATS = 3
METRICS = [f"metric_{i}" for i in range(8)]
POLICY = json.dumps(Policy.uniform(4, rule=Decay(64), budget=0.25, recent=0.1, sink=4).to_dict())
ENQUEUED = 20


def per_trial(work: Callable[[], object], trials: int) -> dict[str, float]:
    """Milliseconds per trial of `work`, which runs all of them."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": 1000 * cpu / trials, "wall": 1000 * wall / trials}


def fastest(measure: Callable[[Path, int], dict[str, float]], trials: int, repeats: int) -> dict[str, float]:
    """The cheapest of several measurements, each in a folder of its own."""
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), trials))
    return min(found, key=lambda cost: cost["cpu"])


def search(sampler: str, folder: Path, trials: int) -> dict[str, float]:
    """Cost of a trial in Optuna. The objectives are sums, so that the front is as crowded as a real one."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    directions = ["minimize", "minimize"]
    kept = optuna.create_study(storage=storage, directions=directions)
    study = optuna.create_study(sampler=make_sampler(sampler, 0, ENQUEUED), directions=directions)

    def work() -> None:
        for _ in range(trials):
            trial = study.ask()
            values = [trial.suggest_float(name, 0, 1) for name in PARAMS]
            result = {"policy": POLICY, "metrics": dict.fromkeys(METRICS, values[0]), "sample_kl": [0.123456] * 64}
            trial.set_user_attr("result", result)
            kept.add_trial(study.tell(trial, [values[0] + sum(values[2:]), values[1] - values[0]]))

    return per_trial(work, trials)


def track(folder: Path, trials: int) -> dict[str, float]:
    """Cost of a trial in MLflow."""
    tracker = Tracker(folder, "overhead", "overhead")
    draw = random.Random(0)
    rows = [({name: draw.random() for name in PARAMS}, {name: draw.random() for name in METRICS})] * trials

    def work() -> None:
        for done in [*range(20, trials, 20), trials]:
            tracker.sync(
                [
                    TrialRecord(i, "complete", "search", *row, POLICY, pareto=i % 7 == done // 20 % 7, ended_ms=i)
                    for i, row in enumerate(rows[:done])
                ]
            )

    return per_trial(work, trials)


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--skip", choices=list(SAMPLERS), action="append", default=[])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = f"{found[0].split(':')[1].strip() if found else platform.machine()}, load {os.getloadavg()[0]:.1f}"
    mlflow = fastest(track, options.trials, REPEATS)
    table = Table("ms per trial, CPU (wall)", "Optuna", "MLflow", "sum", title=f"{options.trials} trials on {cpu}")
    result: dict[str, object] = {"machine": cpu, "trials": options.trials, "parameters": len(PARAMS), "mlflow": mlflow}
    for name in (name for name in SAMPLERS if name not in options.skip):
        repeats = 1 if name == "gp" else REPEATS
        cost = fastest(partial(search, name), options.trials, repeats)
        both = {kind: cost[kind] + mlflow[kind] for kind in mlflow}
        table.add_row(name, *(f"{c['cpu']:.1f} ({c['wall']:.1f})" for c in (cost, mlflow, both)))
        result[name] = {"optuna": cost, "sum": both}
    Console().print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
