"""One case: it is done in a bounded time, and ends well or in one sentence."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from a2sf_core.errors import A2SFError

SECONDS = 20
SHARE = 1 if os.environ.get("A2SF_FUZZ") else 6
"""`make fuzz` runs all cases, `make test` every sixth."""


def number_of(cases: int) -> int:
    """How many of so many cases are run now."""
    return -(-cases // SHARE)


def sentence_or_nothing(name: str, work: Callable[[], Any]) -> str:
    """Do `work`; the sentence that it ends in, or "" if it ends well. Anything else fails the test under this name."""
    try:
        with bounded(name):
            work()
    except A2SFError as error:
        said = str(error)
        assert "\n" not in said.strip(), f"{name}: more than one line: {said!r}"
        assert said.strip().endswith((".", "?")), f"{name}: no sentence: {said[-200:]!r}"
        return said
    except Exception as error:
        raise AssertionError(f"{name[:200]}: {type(error).__name__}: {str(error)[:300]}") from error
    return ""


def command(name: str, *arguments: str) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout and stderr."""
    from tuner import cli

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["a2sf-tune", *arguments]
    code = 0
    try:
        with bounded(name), redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        raise AssertionError(f"{name[:200]}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        sys.argv = before
    # transformers was told before it was imported here whether to draw bars, so that they may be among our lines.
    return code, out.getvalue(), re.sub(r"\r[^\n]*\n", "", err.getvalue())


def refused_or_done(name: str, *arguments: str) -> bool:
    """Run a command; True if it was done, False if it was refused with code 2 and one sentence."""
    code, out, err = command(name, *arguments)
    if code == 0:
        return True
    assert code == 2, f"{name}: exit code {code}: {err}"
    assert "Traceback" not in err, f"{name}: {err}"
    if "Usage:" not in err:  # typer's own words on options that it does not know take four lines
        assert err.startswith("a2sf-tune: "), f"{name}: {err!r}"
        assert err.count("\n") == 1, f"{name}: {err!r}"
        assert err.strip().endswith((".", "?", ")")), f"{name}: {err!r}"
    assert all(char.isprintable() or char in "\n\t" for char in out + err), f"{name}: escape codes: {out + err!r}"
    return False


@contextmanager
def bounded(name: str) -> Iterator[None]:
    """Fail with the name of the case after 20 seconds."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"{name}: more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
