"""Prompts held by Ray actors, on one machine or on many: each has the model and some of the blocks.

The driver keeps study and race. An actor that dies comes back as another process, reads its blocks again when it is
next asked, and what it was asked is asked again; as nothing an actor finds depends on what it found before, no figure
changes.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from a2sf_core.errors import A2SFError
from a2sf_core.rules.base import ScoreRule
from tuner.choices import REFERENCE, SMOLLM2
from tuner.inputs.identity import model_identity
from tuner.inputs.model_folder import brief
from tuner.measuring.blocks import Told, nobody
from tuner.measuring.cluster import connected
from tuner.measuring.portion import Portion
from tuner.measuring.sharing import shared_out
from tuner.measuring.worker import Memory, Wanted, Worker
from tuner.settings import Settings

Found = TypeVar("Found")

LIVES = 10
"""Times that an actor may die before the run gives up."""
NEWS_EVERY = 1.0
"""Seconds between two questions how far the actors are."""
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
        self._say, self._engines = say, itertools.count()
        self.actors: list[Any] = []
        self._ray, self._is_ours = connected(str(settings.ray), settings.actors)
        try:
            self._start(_for_everybody(settings, model), model_identity(model), portions)
        except BaseException:
            self.close()
            raise

    def _start(self, settings: Settings, identity: str, portions: int) -> None:
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
        self.shares = [Memory(portions, machine[found.machine]) for found in started]
        self._processes = [found.process for found in started]

    def hold(self, portion: Portion) -> Held:
        """Let the actors hold `portion`."""
        return Held(self, next(self._engines), portion)

    def get(self, results: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """What `results` came to; `meanwhile` is called every `NEWS_EVERY` seconds until then.

        Raises:
            A2SFError: what one of the actors raised, as soon as it does, or if one of them died too often.
        """
        errors, waiting = self._ray.exceptions, list(results)
        found: dict[Any, Any] = {}
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting, timeout=NEWS_EVERY)
                found |= dict(zip(ready, self._ray.get(ready), strict=True))
                if meanwhile:
                    meanwhile()
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
        return [found[each] for each in results]

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

    def __init__(self, actors: Actors, engine: int, portion: Portion) -> None:
        self._actors, self._engine, self._version = actors, engine, -1
        self.count = min(actors.count, len(portion.blocks))
        self._know(portion)
        weakref.finalize(self, actors.forget, engine).atexit = False

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
        self._know(self._portion.learned(own))


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


def _for_everybody(settings: Settings, model: Any) -> Settings:
    """`settings` that mean the same in every process: no secret, no path from here, and the model's own type."""
    own, dtype = settings.model, str(model.dtype).removeprefix("torch.")
    return replace(
        settings, model=own if own in (REFERENCE, SMOLLM2) else _absolute(own), dtype=dtype,
        device_map=settings.device_map and _absolute(settings.device_map),
        adapter=settings.adapter and settings.adapter.resolve(), storage=None, mlflow=None,
    )  # fmt: skip


def _absolute(given: str) -> str:
    """A path that is there, as it is called from everywhere; anything else as it is."""
    return str(Path(given).resolve()) if Path(given).exists() else given


def _reason(error: BaseException) -> str:
    """The end of what Ray says, which begins with where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief(RuntimeError(lines[-1])) if lines else type(error).__name__
