"""Checks shared by everything that is read from JSON: unknown keys, missing keys, plain number types."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from a2sf_core.errors import A2SFError

LONGEST_NAME = 100
"""Of anything that a user may have misspelt."""


def did_you_mean(given: Any, known: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about a name that is not `known`: the nearest one, or `otherwise` where none is near."""
    name = str(given)  # looking for what is like a text of a megabyte would take minutes
    near = difflib.get_close_matches(name, list(known), n=1) if len(name) <= LONGEST_NAME else []
    return f"did you mean {near[0]!r}?" if near else otherwise


def check_keys(data: Any, known: Iterable[str], required: Iterable[str], where: str) -> Mapping[str, Any]:
    """Return `data` if it is a mapping with only `known` keys and all `required` ones.

    Raises:
        A2SFError: naming the first unknown key (with the nearest known one) or the first missing key.
    """
    if not isinstance(data, Mapping):
        raise A2SFError(f"{where} must be a JSON object, not {type(data).__name__}.")
    names = list(known)
    for key in data:
        if key not in names:
            hint = did_you_mean(key, names, f"known fields are {', '.join(sorted(names))}.")
            raise A2SFError(f"{where} has an unknown field {key!r}; {hint}")
    for key in required:
        if key not in data:
            raise A2SFError(f"{where} lacks the field {key!r}; add it, or export the file again.")
    return data


def is_int(value: Any) -> TypeGuard[int]:
    """True for integers, but not for True and False, which Python also counts as integers."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for integers and floats, but not for True and False."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
