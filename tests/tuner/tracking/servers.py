"""A real MLflow server on this machine, in front of SQLite or of a real PostgreSQL, stopped and started at will."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POSTGRES = next((str(p.parent) for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")), "") or str(
    Path(shutil.which("initdb") or "").parent
)


def free_port() -> int:
    """A port of the loopback that nobody listens on now, and that the system gives to nobody who asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("of a hundred ports not one is free")


class Server:
    """`mlflow server` on one port; `stop` and `start` again."""

    def __init__(self, folder: Path, store: str) -> None:
        self.port, self._folder, self._store = free_port(), folder, store
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self._store]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | quiet, cwd=self._folder, start_new_session=True
            )
        wait_for(f"{self.address}/health", self._process)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            while _is_open(self.port):  # its workers hold the port a moment longer
                time.sleep(0.01)
        self._process = None


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Until it answers, or it has ended, or ten minutes are over."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {address}")


class Postgres:
    """A PostgreSQL of its own on one port, which refuses to run as root; `stop` and `start` again."""

    def __init__(self, folder: Path) -> None:
        self.port, self._data = free_port(), folder / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._data.mkdir(parents=True)
        self._become: list[str] = []
        if os.geteuid() == 0:
            self._become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(self._data, "nobody", "nogroup")
        command = [*self._become, f"{POSTGRES}/initdb", "-D", str(self._data), "-A", "trust", "-U", "a2sf"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=600)

    @property
    def address(self) -> str:
        return f"postgresql://a2sf@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        where = ["-D", str(self._data), "-p", str(self.port), "-k", str(self._data)]
        self._process = subprocess.Popen(
            [*self._become, f"{POSTGRES}/postgres", *where, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
            stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while subprocess.run([f"{POSTGRES}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert time.monotonic() < deadline
            assert self._process.poll() is None
            time.sleep(0.1)

    def stop(self) -> None:
        """As a restart of the service does: whoever is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(120)
        self._process = None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """In a folder of its own: not in pytest's, which only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="a2sf-postgres-"))
    folder.chmod(0o755)
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty database: "sqlite", a file in `folder`, or "postgresql", a server of its own."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/a2sf.db"
        return
    with running_postgres() as server:
        yield server.address
