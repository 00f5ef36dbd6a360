"""The commands in this process, for what a process of its own would not show better: that one imports for seconds."""

from __future__ import annotations

import io
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

SECONDS = 20
PATIENCE = 30
"""How many times as long a case may take on a machine that is busy with others."""


def run_here(main: Callable[[], None], *arguments: str, name: str = "", seconds: int = SECONDS) -> tuple[int, str, str]:
    """`main` with these arguments: exit code, stdout and stderr. Only `SystemExit` is caught."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["a2sf-tune", *arguments]
    code = 0
    try:
        with bounded(name or " ".join(arguments), seconds), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.argv = before
    # transformers was told before it was imported here whether to draw bars, so that they may be among our lines.
    return code, out.getvalue(), re.sub(r"\r[^\n]*\n", "", err.getvalue())


@contextmanager
def bounded(name: str, seconds: int = SECONDS) -> Iterator[None]:
    """Fail with the name of the case after so many seconds of work, however busy the machine is, or if it hangs."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"{name}: more than {seconds} s of work, or {PATIENCE * seconds} s altogether")

    before = [signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(PATIENCE * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for each, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(each, handler)
