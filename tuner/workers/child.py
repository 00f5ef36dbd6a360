"""The process of one job: told its task on standard input, heard on standard output, line by line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any

from tuner.choices import DATABASE_VARIABLE, STORAGE_VARIABLE, TOKEN_VARIABLE

LINES = 40
"""Of what it says that is no message: the last ones are kept."""
_LONGEST = 65_536
_GRACE = 20.0  # seconds from SIGTERM to SIGKILL
SECRETS = (DATABASE_VARIABLE, STORAGE_VARIABLE, TOKEN_VARIABLE)
"""Variables that no job needs."""


class Child:
    """A running job.

    Args:
        command: what is run.
        task: the first line that it reads, as JSON. Its standard input then stays open until this process ends.
        folder: where it runs.
    """

    def __init__(self, command: Sequence[str], task: Mapping[str, Any], folder: Path) -> None:
        self._messages: deque[dict[str, Any]] = deque()
        self._lines: deque[str] = deque(maxlen=LINES)
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment,
            start_new_session=True,  # so that what it starts is ended with it, and a Ctrl-C here is not its own
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._readers = [
            Thread(target=self._hear, args=(self._process.stdout,), daemon=True),
            Thread(target=self._keep, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        with suppress(BrokenPipeError):  # it has died already, which `returncode` tells
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def _hear(self, stream: IO[bytes]) -> None:
        for raw in iter(lambda: stream.readline(_LONGEST), b""):
            try:
                message = json.loads(raw)
            except ValueError:
                message = None
            if isinstance(message, dict):
                self._messages.append(message)

    def _keep(self, stream: IO[bytes]) -> None:
        for raw in iter(lambda: stream.readline(_LONGEST), b""):
            if line := raw.decode("utf-8", "replace").rstrip():
                self._lines.append(line)

    @property
    def pid(self) -> int:
        """Its number, which is that of its group too."""
        return self._process.pid

    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it. All that it said has been heard then."""
        code = self._process.poll()
        if code is not None:
            for reader in self._readers:
                reader.join(5)  # a process that it left behind may still hold the pipe
        return code

    def messages(self) -> list[dict[str, Any]]:
        """What came since the last call."""
        return [self._messages.popleft() for _ in range(len(self._messages))]

    def last_lines(self) -> str:
        """The end of what it wrote to standard error."""
        return "\n".join(tuple(self._lines))

    def stop(self) -> None:
        """Ask it to end, then end it, and all that it started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self.kill()

    def kill(self) -> None:
        """End it at once, and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
