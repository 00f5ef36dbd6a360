"""Ways in which a file can be wrong, drawn with a seed: the same number is the same mutation on every machine."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**17, -(10**17), 0.5, -0.5, 1e308, 5e-324, "", "x", "inf", "nan", "-1", "1e999",
    "x" * 5000, "\x1b[31m", "a\x00b", "\u202e", "日本", [], [1], [[]], ["x"], [None] * 3, {}, {"a": 1}, {"": None},
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 40, "9" * 5000, "[" * 5000, "{", "'x'", "01", '"\\ud800"', "")
"""What only the text of a file can say."""


def of_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one thing changed at a random place."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    if not places:
        return rng.choice(JUNK)
    holder, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice([f"{key}s", "", "policy", "x" * 300])] = rng.choice(JUNK)
    elif how == 2 and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[:1]) * rng.choice([1, 2, 50]))
    elif how == 3 and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice([-holder[key], holder[key] + 1, str(holder[key]), float(holder[key]), [holder[key]]])
    else:
        holder[key] = rng.choice(JUNK)
    return changed


def of_json(rng: random.Random, value: Any) -> bytes:
    """The text of a JSON value with one thing wrong, in what it says or in how it is written."""
    how = rng.randrange(10)
    if how < 7:
        return json.dumps(of_value(rng, value)).encode()
    if how == 7:
        return of_bytes(rng, json.dumps(value).encode())
    marked = copy.deepcopy(value)
    places = list(_places(marked))
    if not places:
        return rng.choice(RAW).encode()
    holder, key = rng.choice(places)
    if how == 8 and isinstance(holder, dict):
        text = json.dumps(holder[key])
        holder[key] = "@@"
        return json.dumps(marked).replace('"@@"', f"{text}, {json.dumps(key)}: {text}", 1).encode()
    holder[key] = "@@"
    return json.dumps(marked).replace('"@@"', rng.choice(RAW), 1).encode()


def of_bytes(rng: random.Random, whole: bytes) -> bytes:
    """Bytes cut, doubled, turned or replaced."""
    place, how = rng.randrange(len(whole) or 1), rng.randrange(6)
    if how == 0:
        return whole[:place]
    if how == 1:
        return whole[:place] + whole[max(0, place - 20) :]
    if how == 2:
        return whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :]
    if how == 3:
        return whole[:place] + rng.randbytes(rng.choice([1, 8, 300])) + whole[place:]
    if how == 4:
        return whole.decode("utf-8", "replace").encode("utf-16")
    return rng.choice([b"", b"\x00" * 1000, b"\xff\xfe", b"\xef\xbb\xbf" + whole, b"null", b"[]", b"0", b'"x"'])


def of_text(rng: random.Random, text: str) -> bytes:
    """A text of lines with one line wrong: gone, twice, moved, or with something in it that does not belong."""
    lines = text.splitlines(keepends=True)
    place, how = rng.randrange(len(lines)), rng.randrange(5)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(place, lines[place])
    elif how == 2:
        cut = rng.randrange(len(lines[place]) or 1)
        junk = [
            ":",
            "- ",
            "{",
            "[",
            "*a",
            "&a ",
            "!!python/object:os.system ",
            "\t",
            "'",
            '"',
            "\x1b[2J",
            "\x00",
            "---\n",
        ]
        lines[place] = lines[place][:cut] + rng.choice(junk) + lines[place][cut:]
    elif how == 3:
        name, sign, _ = lines[place].partition(":")
        value = rng.choice(
            ["", "null", "-1", "1e999", "9" * 40, "[]", "{}", "~", ".nan", "x", "true", "0x7f", "2020-01-01"]
        )
        lines[place] = f"{name}{sign or ':'} {value}\n"
    else:
        return of_bytes(rng, text.encode())
    return "".join(lines).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside: what holds it, and its key or index there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def drawn(subject: str, count: int, mutate: Callable[[random.Random], bytes]) -> Iterator[tuple[str, bytes]]:
    """`count` mutations with names that say how to get each again."""
    for number in range(count):
        yield f"{subject} {number}", mutate(random.Random(f"{subject}:{number}"))
