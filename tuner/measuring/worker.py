"""What runs in a Ray actor: a model, and what it holds of the prompts of each engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from a2sf_core.placement import layer_devices
from tuner.inputs.identity import model_identity
from tuner.inputs.models import model_of
from tuner.measuring.holder import Holder
from tuner.measuring.memory import allowed_memory
from tuner.measuring.portion import Portion
from tuner.settings import Settings


@dataclass(frozen=True)
class Wanted:
    """Which holder is asked.

    engine: whose prompts. version: how often their rules have changed. portion: a reference to a `Portion`, which is
    fetched and read only where it is not held yet.
    """

    engine: int
    version: int
    portion: Any


@dataclass(frozen=True)
class Memory:
    """The prompts of so many engines are held at once, by so many actors on one machine."""

    engines: int
    actors: int


@dataclass(frozen=True)
class Started:
    """Where an actor is, the process that it is now, and which model it has loaded."""

    machine: str
    process: int
    model: str


class Worker:
    """Loads the model of `settings` when it is first asked, and computes with so many `threads`.

    A worker that comes back after its process died knows nothing, so that every call says all that it needs.
    """

    def __init__(self, settings: Settings, threads: int) -> None:
        torch.set_num_threads(threads)
        self._settings = settings
        self._held: dict[int, tuple[int, Holder]] = {}
        self._done = 0

    @cached_property
    def _model(self) -> Any:
        return model_of(self._settings)[0]

    def start(self) -> Started:
        """Load the model; raises A2SFError if it cannot be loaded."""
        import ray

        return Started(str(ray.get_runtime_context().get_node_id()), os.getpid(), model_identity(self._model))

    def run(self, wanted: Wanted, memory: Memory, what: Callable[..., Any], given: Sequence[Any]) -> tuple[int, Any]:
        """The process that this is, and `what(holder, *given)`."""
        holder = self._holder(wanted, memory)
        holder.told = self._one_more
        return os.getpid(), what(holder, *given)

    def forget(self, engine: int) -> None:
        """Let go of what is held for `engine`."""
        self._held.pop(engine, None)

    def done(self) -> int:
        """Pieces of long work done since the process began, for whoever watches."""
        return self._done

    def _holder(self, wanted: Wanted, memory: Memory) -> Holder:
        import ray

        version, holder = self._held.get(wanted.engine, (-1, None))
        if holder and version == wanted.version:
            return holder
        portion: Portion = ray.get(wanted.portion)
        if holder and holder.portion.learn_from and not portion.learn_from:  # a newer version: rules were learned
            holder.learn(portion.bank.own)
        else:
            if portion.memory is not None:
                allowed = allowed_memory(self._settings.memory, layer_devices(self._model), memory.actors)
                portion = replace(portion, memory=allowed // memory.engines)
            holder = Holder(self._model, portion, self._one_more)
        self._held[wanted.engine] = wanted.version, holder
        return holder

    def _one_more(self) -> None:
        self._done += 1
