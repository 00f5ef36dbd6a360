"""What was measured of a profile so far, on disk after every measurement: a run that is stopped goes on there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from a2sf_core.files import write_whole


class Part:
    """JSON values by section and key; in memory only where there is no file.

    A file that cannot be read as that counts as empty: everything in it can be measured again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        try:
            known = json.loads(path.read_text()) if path else {}
        except (OSError, ValueError):
            return
        if isinstance(known, dict) and all(isinstance(section, dict) for section in known.values()):
            self._known = known

    def get(self, section: str, key: str) -> Any:
        """What was put there, None if nothing was."""
        return self._known.get(section, {}).get(key)

    def put(self, section: str, key: str, value: Any) -> None:
        """Keep `value`, in the file too, which is whole at any time."""
        self._known.setdefault(section, {})[key] = value
        if self._path:
            write_whole(self._path, json.dumps(self._known) + "\n")
