"""One study, many workers, on a real PostgreSQL: killed, restarted, counted, and compared with one process.

    python -m benchmarks.fleet                                # 8 workers, 500 trials, 2 kills, a restart; 5 seeds
    python -m benchmarks.fleet --workers 3 --trials 60 --kills 1 --seeds 0
    python -m benchmarks.fleet --rate                         # trials per second of 1 worker and of 2

The bundled model on a few short samples, so that a trial takes some hundredths of a second: what is tried is the
bookkeeping, and with so short trials the workers meet at the database as often as they can. `--rate` takes samples
enough for trials of half a second. Exit code 1 if a trial was lost or doubled.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from scipy import stats
from sqlalchemy.exc import DBAPIError

from benchmarks.lab import Lab, console, run_study
from tests.tuner.tracking.servers import Postgres, running_postgres
from tuner.database import url_of
from tuner.measuring.engine import Engine
from tuner.search.fleet import Fleet
from tuner.search.hypervolume import hypervolume
from tuner.search.objectives import points_of
from tuner.search.records import TrialRecord
from tuner.search.space import Space
from tuner.search.study import Plan, Study

TOKENS, FEW, MANY = (64, 100), 12, 400
"""Length of the prompts, and how many there are; a trial of `MANY` takes half a second and more on one core."""
LEASE = 10.0
ROOT = Path(__file__).resolve().parents[1]


def prepared(n_samples: int) -> tuple[Engine, Space]:
    """What every worker makes for itself; the same in all of them."""
    engine = Lab.of("knowledge", TOKENS).engine(0, n_samples)
    return engine, Space("bump", False, engine.n_layers)


def work(address: str, name: str, folder: Path, trials: int, n_samples: int, seed: int) -> None:
    """One worker, until there are so many trials. Racing only where trials may be short."""
    engine, space = prepared(n_samples)
    fleet = Fleet(address, name, folder, {"seed": str(seed)}, lease=LEASE)
    plan = Plan(trials, racing=n_samples == FEW)
    Study(folder, {}, seed, fleet).run(engine, space, plan, lambda _done: None)
    fleet.close()


@contextmanager
def workers(
    count: int, address: str, name: str, folder: Path, *numbers: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that `work`; `numbers` are trials, samples, seed. They end with the block."""

    def start(place: int) -> subprocess.Popen[bytes]:
        arguments = ["--work", address, name, str(folder / f"{name}-{place}"), *map(str, numbers)]
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet", *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    started = [start(place) for place in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


class Watched:
    """What Optuna itself finds in the database, opened once: the workers need the processor more."""

    def __init__(self, address: str, name: str) -> None:
        self._url = url_of(address, "--storage")[0].render_as_string(hide_password=False)
        self._name = name
        self._study: optuna.Study | None = None

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All of them, also twins; nothing before the study is there."""
        try:
            self._study = self._study or optuna.load_study(study_name=self._name, storage=self._url)
            return self._study.get_trials(deepcopy=False)
        except (KeyError, DBAPIError):  # the workers make the tables at this moment
            return []


def records(address: str, name: str, folder: Path, seed: int) -> list[TrialRecord]:
    """The finished trials as a worker reads them."""
    fleet = Fleet(address, name, folder / "reader", {"seed": str(seed)})
    found = fleet.records()
    fleet.close()
    return found


def one_study(server: Postgres, folder: Path, seed: int, options: argparse.Namespace) -> tuple[list[str], float]:
    """Workers on one study, some of them killed, the database restarted once. What was found wrong; hypervolume."""
    rng, name, began = random.Random(seed), f"seed-{seed}", time.monotonic()
    at = sorted(rng.sample(range(options.trials // 10, options.trials * 9 // 10), options.kills + 1))
    restart = at.pop(rng.randrange(len(at)))
    watched, numbers = Watched(server.address, name), (options.trials, FEW, seed)
    with workers(options.workers, server.address, name, folder, *numbers) as running:
        while any(process.poll() is None for process in running):
            time.sleep(0.5)
            n = len(watched.trials())
            if at and n >= at[0]:
                victim = rng.choice([process for process in running if process.poll() is None])
                victim.kill()
                console.print(f"  {n} trials: killed a worker ({at.pop(0)} was drawn)")
            if restart and n >= restart:
                server.stop()
                time.sleep(2)
                server.start()
                console.print(f"  {n} trials: the database was restarted ({restart} was drawn)")
                restart, watched = 0, Watched(server.address, name)
        failed = sum(process.returncode not in (0, -9) for process in running)
    trials = watched.trials()
    turns = Counter(trial.user_attrs["turn"] for trial in trials)
    labels = Counter(trial.user_attrs["label"] for trial in trials if "label" in trial.user_attrs)
    wrong = [f"turn {turn} was finished {n} times" for turn, n in turns.items() if n > 1]
    wrong += [f"{label} was run {n} times" for label, n in labels.items() if n > 1]
    missing = set(range(options.trials)) - set(turns)
    wrong += [f"{len(missing)} turns are missing"] if missing else []
    wrong += [f"trial {trial.number} is {trial.state.name}" for trial in trials if not trial.state.is_finished()]
    wrong += [f"{failed} workers ended with an error"] if failed else []
    wrong += ["not all kills and the restart came in time"] if at or restart else []
    volume = hypervolume(points_of(records(server.address, name, folder, seed)))
    seconds, said = time.monotonic() - began, wrong or "nothing wrong"
    console.print(f"seed {seed}: {len(trials)} trials in Optuna's tables after {seconds:.0f} s: {said}")
    return wrong, volume


def compare(options: argparse.Namespace) -> list[str]:
    """All seeds with many workers and with one process; the paired difference in hypervolume."""
    wrong, pairs = [], []
    with running_postgres() as server, tempfile.TemporaryDirectory() as folder:
        engine, space = prepared(FEW)
        for seed in range(max(1, options.seeds)):
            found, many = one_study(server, Path(folder), seed, options)
            wrong += found
            if options.seeds:
                one = hypervolume(points_of(run_study(engine, space, Plan(options.trials), seed)))
                console.print(f"seed {seed}: hypervolume {many:.4f} with {options.workers} workers, {one:.4f} with one")
                pairs.append(many - one)
    if len(pairs) > 1:
        half = stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs)
        mean = float(np.mean(pairs))
        console.print(f"difference {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}], {len(pairs)} seeds, 95 %")
    return wrong


def rate(options: argparse.Namespace) -> None:
    """Trials per second between the first one's start and the last one's end, without racing."""
    with running_postgres() as server, tempfile.TemporaryDirectory() as folder:
        for count in (1, 2, *([options.workers] if options.workers > 2 else [])):
            name = f"rate-{count}"
            with workers(count, server.address, name, Path(folder), options.trials, MANY, 0) as running:
                for process in running:
                    process.wait()
            done = records(server.address, name, Path(folder), 0)
            seconds = (max(r.ended_ms for r in done) - min(r.started_ms for r in done)) / 1000
            measuring = sum(r.metrics["seconds"] for r in done)
            console.print(
                f"{count} workers: {len(done) / seconds:.2f} trials/s; a trial measures for "
                f"{measuring / len(done):.2f} s, which is {measuring / seconds / count:.0%} of the workers' time"
            )


def main() -> None:
    """Parse the command line; a worker is this file too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5, help="compared with one process; 0 compares nothing")
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        address, name, folder, *numbers = options.work
        work(address, name, Path(folder), *map(int, numbers))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.rate:
        rate(options)
        return
    wrong = compare(options)
    console.print("\n".join(wrong) or "Exactly the trials that were asked for, none lost, none doubled.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
