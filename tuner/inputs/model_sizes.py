"""What a model's folder says before anything is built from it: files that end, counts that a machine can hold."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import shortened

MOST = {"layer": 2_000, "head": 100_000, "expert": 100_000, "vocab": 100_000_000, "hidden_size": 10_000_000}
"""Of what a field counts whose name holds the word: far over every model, far under what fills a memory."""


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise A2SFError if a file in `folder` would never end, or config.json counts what no machine holds."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise A2SFError(f"{path} is a pipe, a socket or a device; a model's folder holds regular files.")
    for name, value in _integers(config):
        limit = next((most for word, most in MOST.items() if word in name), None)
        if limit is not None and abs(value) > limit:
            raise A2SFError(f"{folder / 'config.json'}: {name} is {shortened(value)}; expected at most {limit}.")


def shards_of(index: Mapping[str, Any], path: Path) -> list[str]:
    """The weight files that an index names, each once.

    Raises:
        A2SFError: if it is no index.
    """
    named = index.get("weight_map")
    if not isinstance(named, Mapping) or not named or not all(isinstance(name, str) for name in named.values()):
        raise A2SFError(f"{path} has no weight_map from tensors to files; download the model again.")
    shards = sorted(set(named.values()))
    for name in shards:
        if Path(name).name != name or "\0" in name:
            raise A2SFError(f"{path} names the weight file {shortened(name)}; expected one in its own folder.")
    return shards


def _integers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Integers of the config and of the configs in it, such as text_config."""
    for name, value in config.items():
        if isinstance(value, int):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _integers(value)
