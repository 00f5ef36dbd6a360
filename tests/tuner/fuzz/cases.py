"""One case: it is done in a bounded time, and ends well or in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from a2sf_core.errors import A2SFError
from tests.calls import bounded, run_here

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

    try:
        return run_here(cli.main, *arguments, name=name)
    except Exception as error:
        raise AssertionError(f"{name[:200]}: {type(error).__name__}: {str(error)[:300]}") from error


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
