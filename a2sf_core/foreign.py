"""What others have written, read with limits: regular files only, of a bounded size, and JSON that holds no traps."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError

MEGABYTE = 1_000_000
MAX_DEPTH = 32
MAX_DIGITS = 18
"""Of an integer, for 64 bits: what is longer would be a trap in every loop that counts to it."""
MAX_FILE = 64 * MEGABYTE


def check_regular(path: Path, what: str, max_bytes: int = MAX_FILE) -> None:
    """Raise A2SFError unless `path` is a file that ends: not a pipe, a device or a folder, and not over `max_bytes`.

    FileNotFoundError passes, for the caller knows best what may have been meant.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise A2SFError(f"{what} {str(path)!r} cannot be read ({_reason(error)}); check the path.") from None
    if stat.S_ISDIR(found.st_mode):
        raise A2SFError(f"{what} {path} is a folder; give a file.")
    if not stat.S_ISREG(found.st_mode):
        raise A2SFError(f"{what} {path} is a pipe, a socket or a device; give a regular file.")
    if found.st_size > max_bytes:
        raise A2SFError(
            f"{what} {path} has {found.st_size / MEGABYTE:,.0f} MB, more than the {max_bytes / MEGABYTE:,.0f} that are "
            "read; give the right file, or a smaller one."
        )


def read_text(path: Path, what: str, mend: str, max_bytes: int = MAX_FILE) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        A2SFError: if there is none, it is too large, cannot be read or is not UTF-8; `mend` says what to do.
    """
    try:
        check_regular(path, what, max_bytes)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else _reason(error)
        raise A2SFError(f"cannot read {what} {path} ({reason}); {mend}") from None


def parse_json(text: str, where: str, mend: str) -> Any:
    """Plain JSON: no key twice, no NaN or infinity, no integer over 64 bits, no lone surrogate, not too deep.

    Raises:
        A2SFError: naming `where` and the line; `mend` says what to do.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_each_once,
            parse_constant=_no_constant,
            parse_int=_short_integer,
            parse_float=_finite,
        )
        _check_depth(value)
    except json.JSONDecodeError as error:
        raise A2SFError(f"{where}, line {error.lineno}: not valid JSON ({error.msg}); {mend}") from None
    except RecursionError:
        raise A2SFError(f"{where}: nested more than {MAX_DEPTH} deep; {mend}") from None
    except ValueError as error:
        raise A2SFError(f"{where}: {error}; {mend}") from None
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the field {shortened(key)} is there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _short_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"the integer {digits[:12]}... has more than {MAX_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is more than a float holds")
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for each in level:
            inside.extend(_inside(each))
        if not inside:
            return
        level = inside
    raise RecursionError


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("a text holds half of a surrogate pair, which is no character")
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def shortened(value: Any) -> str:
    """`value` as Python writes it, cut where it is long: a sentence is read, not scrolled through."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
