"""A process that ends with the one that started it: its standard input is a pipe, which closes then in any case."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_STDIN = 0  # read without Python's buffer, whose lock a thread would hold when the process ends


def first_line() -> bytes:
    """The first line of standard input."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(_STDIN, 1)):
        line += more
    return line


def when_parent_ends(do: Callable[[], None]) -> None:
    """Call `do`, from a thread, as soon as standard input has come to its end."""

    def wait() -> None:
        while os.read(_STDIN, 4096):
            pass
        do()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def end_the_group() -> None:
    """This process and all that it started. Only for one that leads a group of its own."""
    os.killpg(os.getpgid(0), signal.SIGKILL)
