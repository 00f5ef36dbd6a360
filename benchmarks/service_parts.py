"""What the benchmarks of the service share: a real service in a process of its own, and a study to ask about."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a2sf_core import A2SFConfig, Policy
from tuner.alpha.model import AlphaModel
from tuner.database import default_address
from tuner.judging.intervals import Interval
from tuner.service.tables import opened
from tuner.service.tokens import Tokens
from tuner.workers.jobs import Jobs, new_id
from tuner.workers.leases import Ending, Leases
from tuner.workers.words import STUDY

OWNER = "anna"
REFERENCE: dict[str, Any] = {
    "architecture": "llama", "n_layers": 4, "n_kv_heads": 2, "head_dim": 32, "hidden_size": 128, "vocab_size": 1436,
    "name": "reference_model", "revision": None,
}  # fmt: skip
"""The shape of the bundled model, which need not be loaded for it."""


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[str]
    port: int
    data: Path
    token: str


def start(data: Path, token: str, *options: str) -> Service:
    """`a2sf-tune serve` in a process of its own, once it has said where."""
    command = [sys.executable, "-m", "tuner.cli", "serve", "--data", str(data), "--port", "0", *options]
    with (data.parent / "service.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r":(\d+)/$", said.strip())
    assert found, said
    return Service(process, int(found[1]), data, token)


def new_token(data: Path) -> str:
    """One for `OWNER`, in the embedded database of `data`."""
    data.mkdir(parents=True, exist_ok=True)
    database = opened(default_address(data))
    token = Tokens(database).add(OWNER)
    database.close()
    return token


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Service]:
    """A service for the length of the block."""
    service = start(data, new_token(data), *options)
    try:
        yield service
    finally:
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)


def finished_study(data: Path, owner: str) -> str:
    """A study that has ended with a regressor of 21 terms, the most that a run fits."""
    database = opened(default_address(data))
    jobs, leases, job = Jobs(database), Leases(database, "benchmark"), new_id()
    jobs.put(job, STUDY, owner, {"task": "knowledge"}, {"folder": f"studies/{job}", "settings": {}})
    claim = leases.claim(per_owner=1)
    assert claim is not None
    leases.finish(claim, Ending({"status": "adopt"}))
    database.close()
    powers = [[int(i == j) + int(i == k) for i in range(5)] for j in range(6) for k in range(j, 6)]
    surface = {
        "mean": [3.0, -6.0, 9.0, 7.0, 0.25],
        "scale": [1.0] * 5,
        "powers": powers,
        "coefficients": np.random.default_rng(0).normal(size=len(powers)).tolist(),
    }
    gain = Interval(0.01, 0.0, 0.02)
    regressor = AlphaModel("polynomial", 64.0, (100, 2000), 0.25, surface, 0.02, 0.01, gain, 100, "")
    folder = data / "studies" / job
    folder.mkdir(parents=True, exist_ok=True)
    policy = Policy.h2o(REFERENCE["n_layers"], 0.5)
    A2SFConfig(REFERENCE, "knowledge", policy, alpha_model=regressor.to_dict()).save_pretrained(folder)
    return job


def free_port() -> int:
    """One of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(data: Path) -> list[int]:
    """Workers and jobs of a data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                here = os.readlink(entry / "cwd") == str(data) if "tuner.service.job" in words else str(data) in words
            except OSError:
                continue
            if here and ("worker" in words or "tuner.service.job" in words):
                found.append(int(entry.name))
    return found
