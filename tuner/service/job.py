"""The process of one job: `python -m tuner.service.job` reads its task from standard input and writes messages.

A study is the ordinary job of `tuner.run`, in its folder; started again there, it goes on. Messages are lines of JSON
on standard output (see `tuner.workers.progress`); whatever libraries print goes to standard error.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from tuner.printing import quiet_libraries
from tuner.settings import Settings
from tuner.watch import Progress
from tuner.workers.parent import end_the_group, first_line, when_parent_ends
from tuner.workers.words import BUSY, STUDY, USER_ERROR, VALIDATION

if TYPE_CHECKING:
    from tuner.reporting.result import Result

CHECK = "check"
"""Reads task and samples as the command line does before it begins; the service waits for it."""
COMMAND = (sys.executable, "-P", "-m", "tuner.service.job")  # -P: nothing in the data folder is a module
_MEMORY_OF_CHECK = 8 * 2**30
_BETWEEN = 0.2  # seconds between two messages of one step
_SHARE = 20  # the live picture takes at most one part in so many of the time

Tell = Callable[[Mapping[str, Any]], None]


class Told:
    """A `Watch` that writes messages.

    Args:
        tell: writes one.
        after: called after each piece of a step.
    """

    def __init__(self, tell: Tell, after: Callable[[], None]) -> None:
        self._tell, self._after = tell, after

    def step(self, name: str) -> Progress:
        """A step begins."""
        self._tell({"step": name})
        said = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal said
            if done >= total or time.monotonic() - said >= _BETWEEN:
                said = time.monotonic()
                self._tell({"done": done, "total": total})
            self._after()

        return progress

    def say(self, text: str) -> None:
        """One sentence."""
        self._tell({"said": text})


class Picture:
    """Keeps `front.json` in step with the journal, as often as that costs little."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next, self._drawn = folder, 0.0, -1

    def renew(self) -> None:
        """Draw it again if there is something new and the last time was long enough ago."""
        from tuner.reporting.front import write_front
        from tuner.search.storage import JOURNAL, read_trials

        journal = self._folder / JOURNAL
        began = time.monotonic()
        if began < self._next or not journal.exists() or journal.stat().st_size == self._drawn:
            return
        self._drawn = journal.stat().st_size
        write_front(self._folder, read_trials(self._folder))
        now = time.monotonic()
        self._next = now + max(1.0, _SHARE * (now - began))


def settings_of(task: Mapping[str, Any]) -> Settings:
    """The settings of a job, from plain JSON."""
    given = dict(task["settings"])
    given["rules"] = tuple(given["rules"])
    given["warm_start"] = tuple(Path(folder) for folder in given["warm_start"])
    given["adapter"] = Path(given["adapter"]) if given["adapter"] else None
    return Settings(**given, out=Path(task["folder"]))


def study(task: Mapping[str, Any], tell: Tell) -> Mapping[str, Any]:
    """Run or resume the whole job."""
    settings = settings_of(task)
    from tuner.inputs.check import check

    inputs = check(settings)
    tell({"step": "Loading the model"})
    from tuner.reporting.front import write_front
    from tuner.run import tune
    from tuner.search.storage import read_trials

    folder = Path(task["folder"])
    result = tune(settings, inputs, Told(tell, Picture(folder).renew))
    write_front(folder, read_trials(folder), result)
    return found(result)


def found(result: Result) -> dict[str, Any]:
    """What a study's row tells of it."""
    evidence = result.evidence
    return {
        "status": evidence.status,
        "verdict": evidence.verdict,
        "policy_from": evidence.policy_from,
        "cache_fraction": evidence.cache.fraction,
        "metric": evidence.metric,
        "goal_points": evidence.goal_points,
        "difference_points": evidence.quality.difference_points,
        "report_samples": evidence.samples.report,
        "mlflow": "" if result.serve_command else result.link,
    }


def validation(task: Mapping[str, Any], tell: Tell) -> Mapping[str, Any]:
    """What `a2sf-tune validate` shows."""
    settings = settings_of(task)
    from tuner.inputs.check import check

    inputs = check(settings)
    tell({"step": "Reading and scoring some samples"})
    from tuner.judging.validation import first_look

    return {"lines": [[word, said] for word, said in first_look(settings, inputs)]}


def checked(task: Mapping[str, Any], tell: Tell) -> Mapping[str, Any]:  # noqa: ARG001
    """Whether a study could begin, and how many samples it would have."""
    resource.setrlimit(
        resource.RLIMIT_AS, (_MEMORY_OF_CHECK, _MEMORY_OF_CHECK)
    )  # a small file may unpack to a large one
    from tuner.inputs.check import check

    return {"samples": len(check(settings_of(task)).samples)}


KINDS = {STUDY: study, VALIDATION: validation, CHECK: checked}


def main() -> None:
    """Do what standard input says, tell how it went, and end with 0, 2 (bad input) or 75 (come back later)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    faulthandler.enable()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as messages:
        os.dup2(2, 1)  # what libraries print is no message

        def tell(message: Mapping[str, Any]) -> None:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        task = json.loads(first_line())
        when_parent_ends(end_the_group)
        sys.exit(_done(task, tell))


def _done(task: Mapping[str, Any], tell: Tell) -> int:
    quiet_libraries()
    os.environ["HF_HUB_OFFLINE"] = "1"  # no request makes this machine ask another one
    try:
        tell({"result": KINDS[task["kind"]](task, tell)})
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM
    except MemoryError:
        tell(
            {"error": "there is not enough memory for this on the machine that ran it; give fewer or shorter samples."}
        )
        return USER_ERROR
    except A2SFError as error:
        from tuner.search.lock import InUse

        if isinstance(error, InUse):
            return BUSY
        tell({"error": str(error)})
        return USER_ERROR
    return 0


if __name__ == "__main__":
    main()
