"""`a2sf-serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2 as httpx
import pytest

TOKEN = "a-token-for-tests"
COMMAND = [sys.executable, "-m", "tuner.serving.command", "--port", "0"]


@dataclass
class Server:
    """A running server, where it listens, and what it has written."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def metrics(self) -> str:
        """What /metrics shows."""
        return httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text

    def stop(self, seconds: float = 120) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def until(happened: Callable[[], bool]) -> None:
    """Wait for it, five minutes at most."""
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within five minutes")


@contextmanager
def running(folder: Path, *options: str, token: str | None = TOKEN) -> Iterator[Server]:
    environment = {name: value for name, value in os.environ.items() if name != "A2SF_SERVE_TOKEN"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | ({"A2SF_SERVE_TOKEN": token} if token else {})
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=file, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            yield Server(process, _url(process.stdout, log), log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(300)


def _url(stdout: IO[str], log: Path) -> str:
    said = stdout.readline()
    found = re.search(r"at (http://\S+)/v1 ", said)
    assert found, (said, log.read_text())
    return found[1]


def run(*options: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command that is expected to end by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "A2SF_SERVE_TOKEN"}
    environment |= {"A2SF_SERVE_TOKEN": token} if token else {}
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, env=environment, timeout=300)
