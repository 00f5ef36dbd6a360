"""Prompts held by Ray actors, on one machine or on many: each has the model and every so manieth block.

The driver keeps study and race. An actor that dies comes back as another process, reads its blocks again when it is
next asked, and what it was asked is asked again; as nothing an actor finds depends on what it found before, no figure
changes.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from a2sf_core.errors import A2SFError
from a2sf_core.rules.base import ScoreRule
from tuner.choices import RAY_LOCAL
from tuner.inputs.model_folder import brief
from tuner.measuring.blocks import Told, nobody
from tuner.measuring.portion import Portion
from tuner.measuring.worker import Wanted, Worker
from tuner.settings import Settings

Found = TypeVar("Found")

LIVES = 10
"""Times that an actor may die before the run gives up."""
STARTS = 3
"""Times that a local Ray is tried to be started: on a busy machine it gives up after half a minute."""
FEWEST = 2
"""Actors where there are no GPUs, and fewer machines than that."""
NEWS_EVERY = 1.0
"""Seconds between two questions how far the actors are."""
KNOCK = 10.0
"""Seconds that a cluster may take to answer at all."""
PATIENCE = 60.0
"""Seconds until it is said that the cluster has no room yet."""


class Actors:
    """Ray actors that load the model of `settings`, for the engines of one run.

    Args:
        settings: `ray` is the cluster's address, or `RAY_LOCAL`; `actors` how many, None for one on each GPU, or where
            there is none one on each machine, but `FEWEST` at least.
        portions: engines that will hold prompts at once; they share the memory of a machine.
        say: told where the run has to wait.

    Raises:
        A2SFError: if there is no such cluster, or its machines cannot load the model.
    """

    def __init__(self, settings: Settings, portions: int, say: Callable[[str], None]) -> None:
        self._ray, self._is_ours = _connected(str(settings.ray), settings.actors)
        self._engines = itertools.count()
        gpus = 0 if settings.device == "cpu" else int(self._ray.cluster_resources().get("GPU", 0))
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self.count = settings.actors or gpus or max(FEWEST, len(machines))
        cores = min(int(machine.get("CPU", 1)) for machine in machines)
        threads = max(1, cores * len(machines) // self.count)
        settings = replace(settings, model=_everywhere(settings.model), storage=None)
        actor = self._ray.remote(
            num_cpus=1 if gpus else threads, num_gpus=gpus // self.count, max_restarts=LIVES, max_task_retries=LIVES,
            concurrency_groups={"news": 1}, scheduling_strategy="SPREAD",
        )(Worker)  # fmt: skip
        self.actors = [actor.remote(settings, threads) for _ in range(self.count)]
        starting = [each.start.remote() for each in self.actors]
        if self._ray.wait(starting, num_returns=self.count, timeout=PATIENCE)[1]:
            say(f"Waiting for the Ray cluster to have room for {self.count} actors, and for these to load the model.")
        at = self.get(starting)
        self.shares = [portions * Counter(at)[machine] for machine in at]

    def hold(self, model: Any, portion: Portion, told: Told = nobody) -> Held:  # noqa: ARG002
        """Let the actors hold `portion`; each of them has a model of its own."""
        return Held(self, next(self._engines), portion, told)

    def get(self, results: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """What `results` came to; `meanwhile` is called every `NEWS_EVERY` seconds until then.

        Raises:
            A2SFError: what one of the actors raised, or if one of them died too often.
        """
        errors = self._ray.exceptions
        waiting = list(results) if meanwhile else []
        try:
            while waiting and meanwhile:
                _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=NEWS_EVERY)
                meanwhile()
            return list(self._ray.get(list(results)))
        except errors.RayTaskError as error:
            if isinstance(error.cause, A2SFError):
                raise error.cause from None
            raise
        except errors.RayActorError as error:
            raise A2SFError(
                f"a Ray actor died more than {LIVES} times or could not be started ({brief(error)}); memory may be "
                "short: lower --memory or --actors. What was finished is kept; the same command goes on from there."
            ) from error

    def done(self, index: int) -> int | None:
        """Pieces of work that actor `index` has done since it began; None if it does not answer."""
        asked = self.actors[index].done.options(concurrency_group="news").remote()
        try:
            return int(self._ray.get(asked, timeout=NEWS_EVERY))
        except (self._ray.exceptions.GetTimeoutError, self._ray.exceptions.RayActorError):
            return None

    def put(self, portion: Portion) -> Any:
        """A reference to `portion`, from which any actor can have it, as long as this process lives."""
        return self._ray.put(portion)

    def close(self) -> None:
        """End the actors, and the connection if this run has made it."""
        for actor in self.actors:
            self._ray.kill(actor)
        if self._is_ours:
            self._ray.shutdown()


class Held:
    """The prompts of one engine at the actors: a `Holders`."""

    def __init__(self, actors: Actors, engine: int, portion: Portion, told: Told) -> None:
        self._actors, self._engine, self._portion, self._version = actors, engine, portion, -1
        self.count = min(actors.count, len(portion.blocks))
        self._know(portion)
        self.run(_nothing, dict.fromkeys(range(self.count), ()), told)

    def _know(self, portion: Portion) -> None:
        self._portion, self._version = portion, self._version + 1
        parts = (self._actors.put(portion.part(index, self.count)) for index in range(self.count))
        self._wanted = [Wanted(self._engine, self._version, part) for part in parts]

    def run(
        self, what: Callable[..., Found], given: Mapping[int, tuple[Any, ...]], told: Told = nobody
    ) -> dict[int, Found]:
        """See `Holders`."""
        news = None if told is nobody else _News(self._actors, list(given), told)
        asked = [
            self._actors.actors[index].run.remote(self._wanted[index], self._actors.shares[index], what, each)
            for index, each in given.items()
        ]
        return dict(zip(given, self._actors.get(asked, news), strict=True))

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """See `Holders`; each actor learns when it is next asked."""
        self._know(replace(self._portion, bank=replace(self._portion.bank, own=tuple(own)), learn_from=()))


class _News:
    """Tells `told` of every piece of work that the actors at `places` have done since the last time."""

    def __init__(self, actors: Actors, places: Sequence[int], told: Told) -> None:
        self._actors, self._told = actors, told
        self._known = {place: actors.done(place) or 0 for place in places}

    def __call__(self) -> None:
        for place, known in self._known.items():
            now = self._actors.done(place)
            if now is not None:
                for _ in range(now - known):
                    self._told()
                self._known[place] = now


def _nothing(_holder: object) -> None:
    """What is asked of a holder that is to read its prompts."""


def _connected(address: str, actors: int | None) -> tuple[Any, bool]:
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
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise A2SFError(
                f"there is no Ray cluster at --ray {address} ({brief(error)}); start one with `ray start --head`, or "
                f"say --ray {RAY_LOCAL}."
            ) from error
        return ray, True
    # This process waits while the actors work, so that its threads are theirs.
    cores = max(actors or FEWEST, torch.get_num_threads())
    for attempt in range(STARTS):
        try:
            ray.init(RAY_LOCAL, num_cpus=cores, include_dashboard=False, **common)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
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
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _everywhere(model: str) -> str:
    """A path that means the same in every working folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model
