"""Files that appear whole or not at all, and JSON to read by eye."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAT = re.compile(r'\[\n((?:[^\[\]{}"]|"inf")*)\]')
"""A list of numbers, infinity among them. It begins in no string, as those of JSON hold no line break."""


def readable_json(value: Any) -> str:
    """JSON for the eye: indented, but a list of numbers on one line.

    Raises:
        TypeError, ValueError: if JSON cannot hold `value`; it has no infinity and no NaN.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    return _FLAT.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that a kill leaves the old file or the new one."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; at the end of the block it moves there, and if the block fails it is gone.

    What a kill leaves begins with a dot: see `leftovers`.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    beside.touch(0o666, exist_ok=False)  # less what the umask takes; mkstemp makes files that only the owner reads
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def leftovers(folder: Path) -> list[Path]:
    """What `whole` was making in `folder` when it was killed; only whoever writes there alone may remove them."""
    return [path for suffix in (".json", ".png", ".html") for path in folder.glob(f".*{suffix}.*{suffix}")]
