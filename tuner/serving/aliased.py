"""A served config that comes from MLflow's registry: whatever an alias points at."""

from __future__ import annotations

import tempfile
from pathlib import Path

from a2sf_core.config import A2SFConfig
from tuner.tracking.registry import Alias


class Aliased:
    """models:/NAME@ALIAS. A change is seen by the number of the version, and a version never changes."""

    seconds = 10.0

    def __init__(self, uri: str, mlflow: str | None) -> None:
        """Raises A2SFError if `uri` is not of that form, or nobody says where the registry is."""
        self._uri, self._alias = uri, Alias.read(uri, mlflow)
        self._loaded = ""

    @property
    def where(self) -> str:
        """The alias, and the version that was loaded last."""
        return f"{self._uri} (version {self._loaded})" if self._loaded else self._uri

    def has_changed(self) -> bool:
        """Whether the alias points at another version than the one that was loaded last.

        Raises:
            A2SFError: if there is no such alias any more, or MLflow does not answer.
        """
        return self._alias.version() != self._loaded

    def load(self) -> A2SFConfig:
        """Raises A2SFError if the version is not a config, or MLflow does not answer."""
        version = self._alias.version()
        with tempfile.TemporaryDirectory() as folder:
            file = self._alias.fetch(version, Path(folder))
            self._loaded = version  # one that is no config will never be one; one that could not be fetched may be
            return A2SFConfig.from_pretrained(file)
