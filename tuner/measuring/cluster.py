"""Ray itself: a cluster that is joined, or one that is started on this machine for the run."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

import torch

from a2sf_core.errors import A2SFError
from tuner.choices import RAY_LOCAL
from tuner.inputs.model_folder import brief
from tuner.measuring.sharing import FEWEST

STARTS = 3
"""Times that a local Ray is tried to be started: on a busy machine it gives up after half a minute."""
KNOCK = 10.0
"""Seconds that a cluster may take to answer at all."""


def connected(address: str, actors: int | None) -> tuple[Any, bool]:
    """Ray, connected to the cluster at `address`, or to one of its own; False if this program had done so before.

    Raises:
        A2SFError: if there is none, or it cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if ray.is_initialized():
        return ray, False
    if address != RAY_LOCAL:
        try:
            _knock(address)  # Ray itself would try for minutes
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
            raise A2SFError(
                f"there is no Ray cluster at --ray {address} that this machine belongs to ({brief(error)}); join it "
                f"with `ray start --address=HOST:PORT`, or say --ray {RAY_LOCAL}."
            ) from error
        return ray, True
    # This process waits while the actors work, so that its threads are theirs.
    cores = max(actors or torch.cuda.device_count() or FEWEST, torch.get_num_threads())
    for attempt in range(STARTS):
        try:
            ray.init(RAY_LOCAL, num_cpus=cores, include_dashboard=False, **common)
        except Exception as error:  # that it gave up in half a minute has no type of its own
            ray.shutdown()
            problem = brief(error)
            time.sleep(attempt)
        else:
            return ray, True
    raise A2SFError(
        f"Ray could not be started on this machine ({problem}); try again when it is less busy, or leave --ray out."
    )


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at an `address` with a port."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
