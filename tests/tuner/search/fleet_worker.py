"""A worker of `test_fleet`, in a process of its own: address, folder, goal, seconds of its lease, pause in a trial."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.fleet import Fleet
from tuner.search.space import Space
from tuner.search.study import Plan, Study

IDENTITY = {"model": "m", "data": "d"}
SPACE = Space("bump", False, 3)


def work(address: str, folder: Path, goal: int, lease: float, pause: float) -> None:
    """Work on the study `test` until it has `goal` trials; say how many there are after each."""
    engine = Engine(tiny("llama"), samples(4), bank=SPACE.bank)
    fleet = Fleet(address, "test", folder, IDENTITY, lease=lease)

    def told(done: int) -> None:
        print(done, flush=True)
        time.sleep(pause)  # else one worker has done all before the other has loaded torch

    Study(folder, IDENTITY, 1, fleet).run(engine, SPACE, Plan(goal), told)
    fleet.close()


if __name__ == "__main__":
    address, folder, goal, lease, pause = sys.argv[1:]
    work(address, Path(folder), int(goal), float(lease), float(pause))
