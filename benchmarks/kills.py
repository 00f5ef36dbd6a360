"""Kill the real command at random moments, resume it each time, and look for anything lost, doubled or torn.

    python benchmarks/kills.py                       # 60 kills with SIGKILL, seed 0, a quarter of an hour
    python benchmarks/kills.py --kills 20 --seed 1

Real model, database and processes; few, short samples, so that start-up, trials and report take similar time. A moment
is a stage of the run, drawn at random, and a random delay after it is reached. Half of the kills fall into the first
five seconds, three in each of several fresh folders, where the study and MLflow's database are made; the others fall
into one folder. Each attempt asks for some trials more than the last, so that there is always something left to
interrupt. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

from studies.samples import SampleSpec, bundled_samples

EARLY, EARLY_SECONDS, EARLY_PER_FOLDER = "first seconds", 5.0, 3
STAGES = {"start": 6.0, "study opened": 2.0, "trials": 0.3, "trials done": 2.0, "config written": 0.5, "report": 3.0}
"""What a run goes through, and the longest delay in seconds after that stage is reached."""
ROOT = Path(__file__).resolve().parents[1]
FIRST_TRIALS, MORE_TRIALS = 24, 6
SAMPLES = SampleSpec(scene="knowledge", seed="kills", tokens=(48, 96), search=4, select=4, report=4)


@dataclass(frozen=True)
class Kill:
    """One attempt: the stage drawn for it, when it was killed, finished trials then, and what was found wrong."""

    stage: str
    delay: float
    seconds: float
    finished: int
    ended_before: bool
    findings: tuple[str, ...]


def kill_and_resume(folder: Path, stages: Sequence[str], seed: int) -> tuple[list[Kill], tuple[str, ...]]:
    """Kill a run in ``folder`` once in each of ``stages``, in that order, then let it finish.

    Returns:
        The kills with their findings, and the findings at the end; a sound program has none.
    """
    rng = random.Random(seed)
    data, run = folder / "samples.jsonl", folder / "run"
    data.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in bundled_samples(SAMPLES, SAMPLES.total)))
    command = [sys.executable, "-m", "tuner.cli", "--task", "knowledge", "--data", str(data), "--out", str(run)]
    kills: list[Kill] = []
    known: dict[int, str] = {}
    for number, stage in enumerate(stages):
        goal, delay = FIRST_TRIALS + number * MORE_TRIALS, rng.uniform(0, STAGES.get(stage, EARLY_SECONDS))
        wanted = rng.randint(len(known) + 1, goal)
        began = time.time()
        with (folder / "output.txt").open("w") as output:
            worker = subprocess.Popen([*command, "--trials", str(goal)], cwd=ROOT, stdout=output, stderr=output)
        while worker.poll() is None and not _reached(run, stage, wanted, goal, began):
            time.sleep(0.005)
        time.sleep(delay)
        ended = worker.poll() is not None
        worker.kill()
        worker.wait()
        findings, seconds = [], time.time() - began
        if ended and worker.returncode != 0:
            findings.append(f"a resume failed: {(folder / 'output.txt').read_text()[-300:]}")
        known, found = _compare(known, run)
        kills.append(Kill(stage, delay, seconds, len(known), ended, tuple(findings + found)))
    last = FIRST_TRIALS + len(stages) * MORE_TRIALS
    result = subprocess.run([*command, "--trials", str(last)], cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        return kills, (f"the last resume failed: {result.stderr[-300:]}",)
    known, found = _compare(known, run)
    if len(known) != last:
        found.append(f"{len(known)} trials are finished, not {last}")
    return kills, tuple(found + _missing_at_the_end(run, set(known)))


def _reached(run: Path, stage: str, wanted: int, goal: int, began: float) -> bool:
    def written(name: str) -> bool:
        return (run / name).exists() and (run / name).stat().st_mtime > began

    if stage in ("trials", "trials done"):
        needed = wanted if stage == "trials" else goal
        return written("study.journal") and (run / "study.journal").read_bytes().count(b'"result"') >= needed
    files = {"study opened": "study.journal", "config written": "a2sf_config.json", "report": "report.json"}
    return stage in ("start", EARLY) or written(files[stage])


def _compare(known: dict[int, str], run: Path) -> tuple[dict[int, str], list[str]]:
    """The finished trials now, and what is wrong with them or with files that a reader may open at any time."""
    trials = finished_trials(run)
    now = {trial.number: repr((trial.state, trial.values, trial.params, trial.user_attrs)) for trial in trials}
    findings = [f"trial {n} was lost or changed" for n, told in known.items() if now.get(n) != told]
    for what, keys in {
        "number": [trial.number for trial in trials],
        "parameter set": [
            repr(sorted(trial.params.items())) for trial in trials if trial.params
        ],  # baselines may lack any
        "baseline": [trial.user_attrs["label"] for trial in trials if "label" in trial.user_attrs],
    }.items():
        findings += [f"{what} {key} was finished {n} times" for key, n in Counter(keys).items() if n > 1]
    for trial in trials:
        if trial.state == optuna.trial.TrialState.FAIL and "error" not in trial.user_attrs["result"]:
            findings.append(f"trial {trial.number} was measured and then counted as failed")
    for name in ("a2sf_config.json", "report.json", "profile.json"):
        try:
            json.loads((run / name).read_text())
        except FileNotFoundError:
            pass
        except ValueError:
            findings.append(f"{name} is torn")
    return now, findings


def finished_trials(run: Path) -> list[Any]:
    """The trials with a result, read from a copy of the journal, so that looking changes nothing."""
    if not (run / "study.journal").exists():
        return []
    whole = (run / "study.journal").read_bytes().rpartition(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.journal"
        copy.write_bytes(whole[0] + whole[1])
        storage = JournalStorage(JournalFileBackend(str(copy)))
        trials = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    return [trial for trial in trials if trial.state.is_finished() and "result" in trial.user_attrs]


def _missing_at_the_end(run: Path, trials: set[int]) -> list[str]:
    from mlflow import MlflowClient

    from a2sf_core import A2SFConfig

    A2SFConfig.from_pretrained(str(run))
    files = ("report.json", "pareto.png", "pareto.html")
    findings = [f"there is no {name}" for name in files if not (run / name).exists()]
    client = MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, max_results=10_000)
    children = Counter(int(r.data.tags["a2sf.trial"]) for r in found if "a2sf.trial" in r.data.tags)
    if children != Counter(trials):
        findings.append(f"MLflow has other children than there are trials: {children - Counter(trials)} too many, "
                        f"{Counter(trials) - children} missing")  # fmt: skip
    if [r.info.run_name for r in found if "a2sf.study" in r.data.tags] != [run.name]:
        findings.append("MLflow has not exactly one parent")
    return findings + [f"{r.info.run_name} is {r.info.status}" for r in found if r.info.status == "RUNNING"]


def main() -> None:
    """Parse the command line, kill and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    early = options.kills // 2
    portions = [min(EARLY_PER_FOLDER, early - start) for start in range(0, early, EARLY_PER_FOLDER)]
    late = options.kills - early
    # Every stage as often as the others, in random order.
    stages = random.Random(options.seed).sample((list(STAGES) * late)[:late], late)
    kills: list[Kill] = []
    at_the_end: list[str] = []
    for number, drawn in enumerate([*([EARLY] * portion for portion in portions), stages]):
        with tempfile.TemporaryDirectory() as folder:
            killed, found = kill_and_resume(Path(folder), drawn, options.seed * 1000 + number)
        kills += killed
        at_the_end += [f"folder {number}: {each}" for each in found]
        n_found = len(found) + sum(len(kill.findings) for kill in killed)
        print(f"folder {number}: {len(killed)} kills, {n_found} findings", flush=True)
    table = Table("#", "stage", "+ delay", "killed after", "finished trials", "found", title=f"seed {options.seed}")
    for number, kill in enumerate(kills, 1):
        said = "; ".join(kill.findings) or "nothing"
        after = "had ended" if kill.ended_before else f"{kill.seconds:.1f} s"
        table.add_row(str(number), kill.stage, f"{kill.delay:.2f} s", after, str(kill.finished), said)
    table.add_row("", "finished", "", "", f"{len(portions) + 1} folders", "; ".join(at_the_end) or "nothing")
    console = Console()
    console.print(table)
    n_killed = sum(not kill.ended_before for kill in kills)
    n_early = sum(not kill.ended_before and kill.seconds < EARLY_SECONDS + 0.5 for kill in kills)
    n_found = sum(len(kill.findings) for kill in kills) + len(at_the_end)
    console.print(
        f"{n_killed} of {len(kills)} were killed in time, {n_early} of them in the first five seconds; "
        f"{n_found} findings"
    )
    sys.exit(1 if n_found else 0)


if __name__ == "__main__":
    main()
