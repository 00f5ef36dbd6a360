"""New versions of the served configs, taken up while the server runs; a bad one is refused, and the old one goes on."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from a2sf_core.config import A2SFConfig, config_file
from a2sf_core.cuts import AFTER_THE_PROMPT, CONTEXT
from a2sf_core.errors import A2SFError
from a2sf_core.serve.metrics import Metrics
from a2sf_core.serve.served import Configs, Served

LOG = logging.getLogger("a2sf.serve")
Accept = Callable[[A2SFConfig, str], Served]


class Source(Protocol):
    """Where a config comes from, and may come from again.

    Attributes:
        seconds: between two looks.
    """

    seconds: float

    @property
    def where(self) -> str:
        """For people."""

    def has_changed(self) -> bool:
        """Whether there is something else than what was loaded last. Cheap. Raises A2SFError if that cannot be said."""

    def load(self) -> A2SFConfig:
        """What is there now. Raises A2SFError if it is not a config."""


class ConfigFile:
    """A run folder or an a2sf_config.json. A change is seen by its time, size and inode, and by those alone."""

    seconds = 2.0

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path
        self._loaded: tuple[int, ...] | None = None

    @property
    def where(self) -> str:
        """The path."""
        return str(self._path)

    def has_changed(self) -> bool:
        """Whether the file is another than the one that was loaded last."""
        return self._stamp() != self._loaded

    def load(self) -> A2SFConfig:
        """Raises A2SFError if there is none, or it is not one."""
        self._loaded = self._stamp()  # before it is read: what is written meanwhile is another change
        return A2SFConfig.from_pretrained(self._path)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(config_file(self._path))
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class Watch:
    """Looks at all sources now and then, in a thread of its own."""

    def __init__(self, configs: Configs, sources: Mapping[str, Source], accept: Accept, metrics: Metrics) -> None:
        """Start.

        Args:
            configs: what is served.
            sources: of the configs, by role.
            accept: makes a config and its role into what is served; raises A2SFError if the model is another one.
            metrics: where it is counted.
        """
        self._configs, self._sources, self._accept, self._metrics = configs, sources, accept, metrics
        self._due = {role: monotonic() + source.seconds for role, source in sources.items()}
        self._unreached: set[str] = set()
        self._is_closing = threading.Event()
        for role, source in sources.items():
            metrics.serves(configs.now(role), source.where)
        self._thread = threading.Thread(target=self._run, name="a2sf-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. A look that waits for a server is not waited for."""
        self._is_closing.set()

    def _run(self) -> None:
        while self._due and not self._is_closing.wait(max(0.0, min(self._due.values()) - monotonic())):
            role = min(self._due, key=self._due.__getitem__)
            self._look(role, self._sources[role])
            self._due[role] = monotonic() + self._sources[role].seconds

    def _look(self, role: str, source: Source) -> None:
        try:
            has_changed = source.has_changed()
        except Exception as error:  # whatever it is, the watch must not end with it
            if role not in self._unreached:
                self._unreached.add(role)
                self._refuse(role, source, error)
            return
        if role in self._unreached:  # or else what was refused is still there
            self._unreached.remove(role)
            self._metrics.no_longer_refused(role)
        if has_changed:
            self._take(role, source)

    def _take(self, role: str, source: Source) -> None:
        try:
            served = self._accept(source.load(), role)
        except Exception as error:  # the same
            self._refuse(role, source, error)
            return
        self._metrics.no_longer_refused(role)
        if served != self._configs.now(role):
            self._configs.replace(served)
            self._metrics.serves(served, source.where)
            self._metrics.reloads.labels(role, "loaded").inc()
            LOG.info("%s: version %s of %s answers new requests", role, served.version, source.where)

    def _refuse(self, role: str, source: Source, error: Exception) -> None:
        fault = f"{source.where} cannot be read ({type(error).__name__})."
        said = str(error) if isinstance(error, A2SFError) else fault
        self._metrics.refuses(role, said)
        LOG.error("%s: %s Version %s goes on.", role, said, self._configs.now(role).version)


def accepted_for(model: Any) -> Accept:
    """What a `Watch` on a server of `model` takes; doubts about a config are logged."""

    def accept(config: A2SFConfig, role: str) -> Served:
        config.check_fits(model)
        for doubt in (config.doubt, AFTER_THE_PROMPT if config.cut == CONTEXT else ""):
            if doubt:
                LOG.warning("%s: %s", role, doubt)
        return Served.of(config, role)

    return accept
