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
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from a2sf_core.errors import A2SFError
from a2sf_core.rules.base import ScoreRule
from tuner.choices import RAY_LOCAL, REFERENCE, SMOLLM2
from tuner.inputs.identity import model_identity
from tuner.inputs.model_folder import brief
from tuner.measuring.blocks import Told, nobody
from tuner.measuring.portion import Portion
from tuner.measuring.sharing import FEWEST, shared_out
from tuner.measuring.worker import Memory, Wanted, Worker
from tuner.settings import Settings

Found = TypeVar("Found")

LIVES = 10
"""Times that an actor may die before the run gives up."""
STARTS = 3
"""Times that a local Ray is tried to be started: on a busy machine it gives up after half a minute."""
NEWS_EVERY = 1.0
"""Seconds between two questions how far the actors are."""
KNOCK = 10.0
"""Seconds that a cluster may take to answer at all."""
PATIENCE = 60.0
"""Seconds until it is said that the cluster has no room yet."""


class Actors:
    """Ray actors that load the model of `settings`, for the engines of one run.

    Args:
        settings: `ray` is the cluster's address, or `RAY_LOCAL`; `actors` how many, see `shared_out`.
        model: as this process has loaded it.
        portions: engines that will hold prompts at once; they share the memory of a machine.
        say: told where the run has to wait, and of an actor that died.

    Raises:
        A2SFError: if there is no such cluster, it has no room, or its machines cannot load the model.
    """

    def __init__(self, settings: Settings, model: Any, portions: int, say: Callable[[str], None]) -> None:
        self._say, self._engines, self._portions = say, itertools.count(), portions
        self.actors: list[Any] = []
        self._ray, self._is_ours = _connected(str(settings.ray), settings.actors)
        try:
            self._start(_for_everybody(settings, model), model_identity(model))
        except BaseException:
            self.close()
            raise

    def _start(self, settings: Settings, identity: str) -> None:
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        share = shared_out(machines, settings.actors, settings.device != "cpu", settings.device_map is not None)
        actor = self._ray.remote(
            num_cpus=share.cores, num_gpus=share.gpus, max_restarts=LIVES, max_task_retries=LIVES,
            concurrency_groups={"news": 1}, scheduling_strategy="SPREAD",
        )(Worker)  # fmt: skip
        self.count = share.count
        self.actors = [actor.remote(settings, share.cores) for _ in range(self.count)]
        starting = [each.start.remote() for each in self.actors]
        if self._ray.wait(starting, num_returns=self.count, timeout=PATIENCE)[1]:
            self._say(f"Waiting for {self.count} actors: for room in the Ray cluster, or for the model to be loaded.")
        started = self.get(starting)
        if others := {found.model for found in started} - {identity}:
            raise A2SFError(
                f"an actor has loaded another model ({others.pop()}) than this process ({identity}); the same files "
                "must lie under the same path on all machines."
            )
        machine = Counter(found.machine for found in started)
        self.shares = [Memory(self._portions, machine[found.machine]) for found in started]
        self._processes = [found.process for found in started]

    def hold(self, model: Any, portion: Portion, told: Told = nobody) -> Held:  # noqa: ARG002
        """Let the actors hold `portion`; each of them has a model of its own."""
        return Held(self, next(self._engines), portion, told)

    def get(self, results: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """What `results` came to; `meanwhile` is called every `NEWS_EVERY` seconds until then.

        Raises:
            A2SFError: what one of the actors raised, as soon as it does, or if one of them died too often.
        """
        errors, waiting = self._ray.exceptions, list(results)
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting, timeout=NEWS_EVERY)
                self._ray.get(ready)
                if meanwhile:
                    meanwhile()
            return list(self._ray.get(list(results)))
        except errors.RayTaskError as error:
            if isinstance(error.cause, A2SFError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise A2SFError(
                f"a Ray actor cannot be started, or died more than {LIVES} times ({_reason(error)}). Memory may be "
                "short (lower --memory or --actors), or a machine lacks a2sf-tune in this version. What was finished "
                "is kept; the same command goes on from there."
            ) from error

    def note(self, index: int, process: int) -> None:
        """Actor `index` has answered from `process`; it is said if that is another one than before."""
        if process != self._processes[index]:
            self._processes[index] = process
            self._say(f"Ray actor {index + 1} had died; it is back, has read its prompts again, and nothing is lost.")

    def done(self, places: Sequence[int]) -> dict[int, int]:
        """Pieces of work that the actors at `places` have done since they began, of those that answer."""
        asked = {place: self.actors[place].done.options(concurrency_group="news").remote() for place in places}
        ready, _ = self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=NEWS_EVERY)
        found = {}
        for place, answer in asked.items():
            with suppress(self._ray.exceptions.RayActorError):
                if answer in ready:
                    found[place] = int(self._ray.get(answer))
        return found

    def forget(self, engine: int) -> None:
        """The prompts of `engine` are needed no longer."""
        if self._ray.is_initialized():
            for actor in self.actors:
                actor.forget.remote(engine)

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
        self._actors, self._engine, self._version = actors, engine, -1
        self.count = min(actors.count, len(portion.blocks))
        self._know(portion)
        weakref.finalize(self, actors.forget, engine).atexit = False
        self.run(_nothing, dict.fromkeys(range(self.count), ()), told)

    def _know(self, portion: Portion) -> None:
        self._portion, self._version = portion, self._version + 1
        parts = (self._actors.put(portion.part(index, self.count)) for index in range(self.count))
        self._wanted = [Wanted(self._engine, self._version, part) for part in parts]

    def run(
        self, what: Callable[..., Found], given: Mapping[int, tuple[Any, ...]], told: Told = nobody
    ) -> dict[int, Found]:
        """See `Holders`."""
        actors = self._actors
        news = None if told is nobody else _News(actors, list(given), told)
        asked = [
            actors.actors[index].run.remote(self._wanted[index], actors.shares[index], what, each)
            for index, each in given.items()
        ]
        found = dict(zip(given, actors.get(asked, news), strict=True))
        for index, (process, _) in found.items():
            actors.note(index, process)
        return {index: each for index, (_, each) in found.items()}

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """See `Holders`; each actor learns when it is next asked."""
        self._know(replace(self._portion, bank=replace(self._portion.bank, own=tuple(own)), learn_from=()))


class _News:
    """Tells `told` of every piece of work that the actors at `places` have done since the last time."""

    def __init__(self, actors: Actors, places: Sequence[int], told: Told) -> None:
        self._actors, self._places, self._told = actors, places, told
        self._known = actors.done(places)

    def __call__(self) -> None:
        for place, now in self._actors.done(self._places).items():
            for _ in range(now - self._known.get(place, now)):
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


def _for_everybody(settings: Settings, model: Any) -> Settings:
    """`settings` that mean the same in every process: no secret, no path from here, and the model's own type."""
    own, device_map = settings.model, settings.device_map
    if own not in (REFERENCE, SMOLLM2) and Path(own).exists():
        own = str(Path(own).resolve())
    if device_map and Path(device_map).exists():
        device_map = str(Path(device_map).resolve())
    return replace(
        settings, model=own, device_map=device_map, adapter=settings.adapter and settings.adapter.resolve(),
        dtype=str(model.dtype).removeprefix("torch."), storage=None, mlflow=None,
    )  # fmt: skip


def _reason(error: BaseException) -> str:
    """The end of what Ray says, which begins with where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief(RuntimeError(lines[-1])) if lines else type(error).__name__
