"""A served config that comes from MLflow's registry: whatever an alias points at."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import monotonic

from a2sf_core.config import A2SFConfig
from tuner.tracking.registry import Alias

_LOOK_SECONDS = 10.0
"""Between two questions to the registry."""


class Aliased:
    """models:/NAME@ALIAS. A change is seen by the number of the version, and a version never changes."""

    def __init__(self, uri: str, mlflow: str | None) -> None:
        """Raises A2SFError if `uri` is not of that form, or nobody says where the registry is."""
        self._uri, self._alias = uri, Alias.read(uri, mlflow)
        self._loaded = self._found = ""
        self._next_look = 0.0

    @property
    def where(self) -> str:
        """The alias, and the version that was loaded last."""
        return f"{self._uri} (version {self._loaded})" if self._loaded else self._uri

    def has_changed(self) -> bool:
        """Whether the alias points at another version than the one that was loaded last.

        Raises:
            A2SFError: if there is no such alias any more, or MLflow does not answer.
        """
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + _LOOK_SECONDS
            self._found = self._alias.version()
        return self._found != self._loaded

    def load(self) -> A2SFConfig:
        """Raises A2SFError if the version is not a config, or MLflow does not answer."""
        found = self._found or self._alias.version()
        self._found = self._loaded  # as if it had not been seen, in case that it cannot be fetched
        with tempfile.TemporaryDirectory() as folder:
            file = self._alias.fetch(found, Path(folder))
            self._found = self._loaded = found  # a version that is no config will never be one
            return A2SFConfig.from_pretrained(file)
