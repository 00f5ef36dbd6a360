"""Other people's words on a terminal: what would move the cursor, hide or turn text is written out, here and nowhere
else."""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
from urllib.parse import urlsplit, urlunsplit

LONGEST = 2000
"""Characters of one sentence; what it quotes may be a file."""
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_HARMLESS = "\n\t\u200c\u200d"
"""The last two join and part letters in Persian, Hindi and emoji."""


def printable(text: str) -> str:
    """`text` with control characters, escape codes and marks that turn the reading direction written as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in _HARMLESS or unicodedata.category(char) not in _HIDDEN else _written(char) for char in text
    )


def write_what_cannot_be_shown() -> None:
    """No run is lost to a terminal that knows only ASCII: from now on it gets \\xb1 for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """No telemetry, and no bars or advice from libraries between our own lines."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "true")
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def one_line(text: str) -> str:
    """`printable`, on one line and of a length that somebody reads."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}... ({len(line):,} characters)"


def without_password(uri: str) -> str:
    """`uri` with *** for its password, in the user part or in a query such as ?password=."""
    parts = urlsplit(uri)
    place = re.sub(r"^([^@/]*?):[^@/]*@", r"\1:***@", parts.netloc)
    query = re.sub(r"(?i)(password|token|secret)=[^&]*", r"\1=***", parts.query)
    # urlunsplit would take slashes from sqlite:////tmp/a.db
    return (
        uri if (place, query) == (parts.netloc, parts.query) else urlunsplit(parts._replace(netloc=place, query=query))
    )


def _written(char: str) -> str:
    return char.encode("unicode_escape").decode() if ord(char) < 0x110000 else "?"
