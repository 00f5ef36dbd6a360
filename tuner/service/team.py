"""The workers that the service starts itself: one that dies is replaced, and all end with the service."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

LOG = logging.getLogger("a2sf.service")
_LOOK = 0.5
_LONG = 60.0  # a worker that lived so long is replaced at once; one that did not, ever later
_LATEST = 60.0
_GRACE = 40.0


@dataclass
class Team:
    """`size` workers, each started as `a2sf-tune worker` with `options`, and `variables` in its environment."""

    size: int
    options: Sequence[str]
    variables: Mapping[str, str]
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They work for the length of the block."""
        keepers = [threading.Thread(target=self._keep, daemon=True) for _ in range(self.size)]
        for keeper in keepers:
            keeper.start()
        try:
            yield
        finally:
            self._stop.set()
            for keeper in keepers:
                keeper.join(_GRACE + 10)

    def _keep(self) -> None:
        pause = 0.5
        while not self._stop.is_set():
            began = time.monotonic()
            worker = self._start()
            while worker.poll() is None and not self._stop.wait(_LOOK):
                pass
            if self._stop.is_set():
                self._end(worker)
                return
            pause = 0.5 if time.monotonic() - began > _LONG else min(2 * pause, _LATEST)
            LOG.warning("a worker ended with %s; another one begins in %.0f s", worker.returncode, pause)
            self._stop.wait(pause)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "tuner.cli", "worker", *self.options, "--with-parent"]
        # Its standard input is a pipe that closes when this process ends, however it ends.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ | self.variables,
            start_new_session=True,
        )  # fmt: skip

    def _end(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(_GRACE)
        worker.kill()
        worker.wait()
