"""Where the runs of a study go: a tracking server, a database of the user's, or one of its own in the run folder."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tuner.choices import tracking_address
from tuner.printing import without_password

PROBE_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Place:
    """One place, as MLflow's client takes it.

    uri: a tracking address. database: the file, if that is SQLite. artifacts: where files lie, or None where a server
    keeps them. embedded: made for this study, in its folder.
    """

    uri: str
    database: Path | None
    artifacts: Path | None
    embedded: bool

    @property
    def is_server(self) -> bool:
        """True for an MLflow server, which shows its pages itself."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The address without a password."""
        return without_password(self.uri)

    @property
    def has_password(self) -> bool:
        """True if the address must not be shown as it is."""
        return self.shown != self.uri

    def check_answers(self) -> None:
        """Raise OSError if nothing listens there. MLflow itself would try for minutes."""
        parts = urlsplit(self.uri)
        scheme = parts.scheme.partition("+")[0]
        if parts.hostname and scheme in _PORTS:
            socket.create_connection((parts.hostname, parts.port or _PORTS[scheme]), PROBE_SECONDS).close()


def place_of(run_dir: Path, address: str | None) -> Place:
    """The place that `address` or MLFLOW_TRACKING_URI names; without either, a database in the run folder.

    Raises:
        A2SFError: for an address that cannot be used here.
    """
    own = run_dir.resolve() / "mlflow"
    uri = tracking_address(address)
    if uri is None:
        database = own / "mlflow.db"
        return Place(f"sqlite:///{database}", database, own / "artifacts", embedded=True)
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
        return Place(f"sqlite:///{file}", file, file.with_name(f"{file.stem}-artifacts"), embedded=False)
    if urlsplit(uri).scheme in ("http", "https"):
        return Place(uri.rstrip("/"), None, None, embedded=False)
    # A database of many studies: beside their folders, for MLflow would take whatever folder the user stands in.
    return Place(uri, None, run_dir.resolve().parent / "mlflow-artifacts", embedded=False)
