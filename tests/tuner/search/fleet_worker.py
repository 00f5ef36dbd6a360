"""A worker of `test_fleet`, in a process of its own: address, folder, goal, seconds of its lease, pause in a trial."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Seen
from tuner.search.fleet import Fleet
from tuner.search.space import Space
from tuner.search.study import Plan, Study


class Slow(Engine):
    """Takes `pause` seconds longer for every trial, which is when a worker is killed then."""

    pause = 0.0

    def race(self, *arguments: Any, **named: Any) -> list[Seen]:
        time.sleep(self.pause)
        return super().race(*arguments, **named)


IDENTITY = {"model": "m", "data": "d"}
SPACE = Space("bump", False, 3)


def work(address: str, folder: Path, goal: int, lease: float, pause: float) -> None:
    """Work on the study `test` until it has `goal` trials; say how many there are after each."""
    engine = Slow(tiny("llama"), samples(4), bank=SPACE.bank)
    engine.pause = pause
    fleet = Fleet(address, "test", folder, IDENTITY, lease=lease)
    study = Study(folder, IDENTITY, 1, fleet)
    study.run(engine, SPACE, Plan(goal), lambda done: print(done, flush=True))
    fleet.close()


if __name__ == "__main__":
    address, folder, goal, lease, pause = sys.argv[1:]
    work(address, Path(folder), int(goal), float(lease), float(pause))
