"""A metric by its name: one of ours, or a function of the user's own, written `module:function`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from a2sf_core.errors import A2SFError
from tuner.inputs.metrics import METRICS, Metric


def find_metric(name: str) -> Metric:
    """One of `METRICS`, or the function that `module:function` names, in the current folder or on the Python path.

    A function of the user's own is called with (prediction, reference), both text, and gives 0 to 1.

    Raises:
        A2SFError: the end of a sentence that begins with what the name was given for ("field 'metric'").
    """
    if name in METRICS:
        return METRICS[name]
    module, sign, function = name.partition(":")
    if not sign:
        near = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise A2SFError(
            f"is {name!r}; {hint}expected one of {', '.join(METRICS)}, or my_module:function for one of your own"
        )
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise A2SFError(f"is {name!r}; a metric of your own is written my_module:function, without .py")
    found = _import(name, module)
    compute = getattr(found, function, None)
    if not callable(compute):
        near = difflib.get_close_matches(function, [each for each in vars(found) if callable(vars(found)[each])], n=1)
        hint = f"did you mean '{module}:{near[0]}'?" if near else "define it there"
        raise A2SFError(f"is {name!r}, but {found.__file__ or module} has no function {function!r}; {hint}")
    return Metric(name, True, compute)


class Judged(Protocol):
    """What a text is judged by: right answers, and what each of them states."""

    @property
    def id(self) -> str: ...
    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def facts(self) -> tuple[str, ...]: ...


def text_score(metric: Metric, prediction: str, sample: Judged) -> float:
    """The best score of `prediction` against any right answer, or its mean over the facts.

    Raises:
        A2SFError: naming the sample, if the metric raises or gives anything but 0 to 1, or there are no facts to judge.
    """
    if not metric.of_facts:
        return max(_score(metric, prediction, reference, sample.id) for reference in sample.references)
    if not sample.facts:
        raise A2SFError(
            f"Sample {sample.id!r} has no facts for the metric {metric.name}; give it a column 'facts', a list of "
            "texts that a right answer states, or take another metric."
        )
    return sum(_score(metric, prediction, fact, sample.id) for fact in sample.facts) / len(sample.facts)


def _score(metric: Metric, prediction: str, reference: str, sample_id: str) -> float:
    try:
        given: Any = metric.compute(prediction, reference)
    except Exception as error:  # it is the user's code: anything may come out of it
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise A2SFError(
            f"The metric {metric.name} fails on sample {sample_id!r} ({said}), where the prediction begins with "
            f"{prediction[:40]!r}; it must give 0 to 1 for any two texts."
        ) from error
    try:
        score = float(given)
    except (TypeError, ValueError):
        score = float("nan")
    if not 0 <= score <= 1:  # false for NaN too
        raise A2SFError(
            f"The metric {metric.name} gives {given!r} on sample {sample_id!r}; expected a number from 0 to 1."
        )
    return score


def _import(name: str, module: str) -> Any:
    try:
        with _current_folder_first():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise A2SFError(f"is {name!r}, but {module} needs {error.name!r}, which is not installed") from None
        near = difflib.get_close_matches(module, [path.stem for path in Path.cwd().glob("*.py")], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the name, or set PYTHONPATH to its folder"
        raise A2SFError(
            f"is {name!r}, but there is no module {module!r} in {Path.cwd()} or on the Python path; {hint}"
        ) from None
    except (Exception, SystemExit) as error:  # whatever a module does while it is read
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise A2SFError(f"is {name!r}, but the module {module!r} cannot be imported ({said})") from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """The user's folder comes first for this import, and last from then on.

    A module in it may import its neighbours later, but a file there called datasets.py must not become ours.
    """
    folder = str(Path.cwd())
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
