"""A real service in a process of its own, with two owners and one finished study that was really run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import update

from tests.tuner.conftest import Finished
from tuner.database import default_address
from tuner.reporting.front import write_front
from tuner.search.storage import read_trials
from tuner.service.job import found
from tuner.service.tables import opened
from tuner.service.tokens import Tokens
from tuner.workers.jobs import DONE, JOBS, Jobs, new_id
from tuner.workers.words import STUDY

MOST_UPLOAD = 200_000


@dataclass
class Service:
    """A running service: where, its process, its data folder, and a token for each of two owners."""

    url: str
    process: subprocess.Popen[str]
    data: Path
    log: Path
    tokens: dict[str, str]

    def ask(self, owner: str | None, method: str, path: str, **given: Any) -> httpx.Response:
        headers = given.pop("headers", {})
        if owner:
            headers = {"Authorization": f"Bearer {self.tokens[owner]}", **headers}
        return httpx.request(method, self.url + path, headers=headers, timeout=300, **given)

    def get(self, owner: str | None, path: str, **given: Any) -> httpx.Response:
        return self.ask(owner, "GET", path, **given)

    def post(self, owner: str | None, path: str, body: Any, **given: Any) -> httpx.Response:
        return self.ask(owner, "POST", path, json=body, **given)

    def upload(self, owner: str, name: str, content: Any) -> httpx.Response:
        kind = {"Content-Type": "application/octet-stream"}
        return self.ask(owner, "POST", "/v1/samples", params={"name": name}, content=content, headers=kind)


@contextmanager
def serving(data: Path, *options: str, owners: tuple[str, ...] = ("anna", "bert")) -> Iterator[Service]:
    """`a2sf-tune serve`, without workers unless asked for."""
    data.mkdir(parents=True, exist_ok=True)
    database = opened(default_address(data))
    tokens = {owner: Tokens(database).add(owner) for owner in owners}
    database.close()
    command = [sys.executable, "-m", "tuner.cli", "serve", "--data", str(data), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = data.parent / f"{data.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment)
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.fullmatch(r"Open (http://\S+)/\n", said)
            assert found, (said, log.read_text())
            made = Service(found[1], process, data, log, tokens)
            _until_it_answers(made)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(300)
            finally:
                process.kill()
                process.wait()


def _until_it_answers(service: Service) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if service.get(None, "/healthz").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.05)


def plant(data: Path, owner: str, finished: Finished, name: str) -> str:
    """A finished study, put where a worker would have left it."""
    database, job = opened(default_address(data)), new_id()
    folder = data / "studies" / job
    shutil.copytree(finished.result.folder, folder)
    write_front(folder, read_trials(folder), finished.result)
    asked = {"task": "knowledge", "model": "reference", "trials": 26, "max_degradation": 60.0, "name": name}
    Jobs(database).put(job, STUDY, owner, asked, {"folder": f"studies/{job}", "settings": {}})
    values = {"state": DONE, "result": found(finished.result), "ended": time.time(), "bytes": 1000}
    ended = update(JOBS).where(JOBS.c.id == job).values(**values)
    database.write(lambda c: c.execute(ended))
    database.close()
    return job


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    models, samples = folder / "models", folder / "samples"
    models.mkdir()
    samples.mkdir()
    (folder / "secret.jsonl").write_text('{"context": "a", "question": "b", "answer": "the secret"}\n')
    (samples / "link.jsonl").symlink_to(folder / "secret.jsonl")
    (samples / "good.jsonl").write_text('{"context": "a b c", "question": "b", "answer": "c"}\n' * 20)
    options = ["--models", str(models), "--samples", str(samples), "--max-upload", str(MOST_UPLOAD)]
    with serving(folder / "data", *options) as made:
        yield made


@pytest.fixture(scope="module")
def study(service: Service, finished: Finished) -> str:
    """Anna's finished study."""
    return plant(service.data, "anna", finished, "rooms <b>and</b> lamps")
