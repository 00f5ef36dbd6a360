"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that a kill leaves the old file or the new one."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; at the end of the block it moves there, and if the block fails it is gone.

    What a kill leaves begins with a dot: see `leftovers`.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)  # mkstemp makes files that only the owner reads
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def leftovers(folder: Path) -> list[Path]:
    """What `whole` was making in `folder` when it was killed; only whoever writes there alone may remove them."""
    return [path for suffix in (".json", ".png", ".html") for path in folder.glob(f".*{suffix}.*{suffix}")]
