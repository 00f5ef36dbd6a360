"""Many queued studies, with the service, its workers and their jobs killed again and again: all must end well.

    python -m benchmarks.service_soak --studies 100 --kills 5

The studies are real and small (14 short lists, the bundled model, 26 trials). A kill is SIGKILL at a random moment: in
turn the service (whose worker then stops by itself), the worker (whose job dies with it), the job, all at once. Then
the service starts again, if it was killed. Exit code 1 if a study did not end as done with exactly its trials.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.service_parts import Service, new_token, processes_of, start
from studies.samples import bundled_samples
from tuner.database import default_address
from tuner.inputs.tasks import load_task
from tuner.search.storage import read_trials
from tuner.service.tables import opened
from tuner.workers.jobs import Jobs
from tuner.workers.words import STUDY

TRIALS = 26
WHAT = ("service", "worker", "job", "all")


def ask(service: Service, path: str, data: bytes | None = None, kind: str = "application/json") -> Any:
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": kind}
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def samples() -> bytes:
    """14 short lists that the bundled model has learned to answer."""
    spec = load_task("knowledge").samples
    assert spec is not None
    made = bundled_samples(spec.model_copy(update={"tokens": (64, 100), "seed": "soak"}), 14)
    return "".join(json.dumps(asdict(sample)) + "\n" for sample in made).encode()


def kill(service: Service, what: str) -> int:
    """SIGKILL; how many processes."""
    pids = processes_of(service.data)
    jobs = [pid for pid in pids if b"tuner.service.job" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    chosen = {"service": [], "worker": [pid for pid in pids if pid not in jobs], "job": jobs, "all": pids}[what]
    for pid in [*chosen, *([service.process.pid] if what in ("service", "all") else [])]:
        os.kill(pid, signal.SIGKILL)
    if what in ("service", "all"):
        service.process.wait()
        return len(chosen) + 1
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--between", type=float, nargs=2, default=(30, 90), help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, options = random.Random(given.seed), ("--workers", str(given.workers), "--waiting", "1000")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder).resolve() / "data"
        token = new_token(data)
        service = start(data, token, *options)
        began = time.monotonic()
        upload = ask(service, "/v1/samples?name=lists.jsonl", samples(), "application/octet-stream")["id"]
        asked = {"task": "knowledge", "samples": upload, "trials": TRIALS, "max_degradation": 60.0}
        asked["rules"] = ["decay", "window"]
        ids = [
            ask(service, "/v1/studies", json.dumps({**asked, "seed": seed}).encode())["id"]
            for seed in range(given.studies)
        ]
        print(f"{len(ids)} studies queued in {time.monotonic() - began:.0f} s", flush=True)
        for number in range(given.kills):
            time.sleep(rng.uniform(*given.between))
            what = WHAT[number % len(WHAT)]
            n = kill(service, what)
            if service.process.poll() is not None:
                service = start(data, token, *options)
            print(f"{time.monotonic() - began:6.0f} s  killed {what} ({n} processes); {states(data)}", flush=True)
        while any(state in ("queued", "running") for state in states(data)):
            time.sleep(2)
        print(f"{time.monotonic() - began:6.0f} s  {states(data)}")
        wrong = [job for job in ids if not is_whole(data, job)]
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)
    print(f"{len(ids) - len(wrong)} of {len(ids)} done with exactly {TRIALS} trials")
    sys.exit(1 if wrong else 0)


def states(data: Path) -> dict[str, int]:
    """How many studies there are in each."""
    database = opened(default_address(data))
    counts = {state: n for (kind, state), n in Jobs(database).counts().items() if kind == STUDY}
    database.close()
    return counts


def is_whole(data: Path, job: str) -> bool:
    """Done, with every trial once, and its files."""
    folder = data / "studies" / job
    numbers = Counter(trial.number for trial in read_trials(folder))
    files = ("a2sf_config.json", "report.json", "pareto.png", "front.json")
    return numbers == Counter(range(TRIALS)) and all((folder / name).is_file() for name in files)


if __name__ == "__main__":
    main()
