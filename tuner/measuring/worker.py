"""What runs in a Ray actor: a model, and what it holds of the prompts of each engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from a2sf_core.placement import layer_devices
from tuner.inputs.models import model_of
from tuner.measuring.blocks import Told
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
    def _loaded(self) -> tuple[Any, int]:
        """The model, and the bytes that all prompts here may take, as the machine was before any was read."""
        model = model_of(self._settings)[0]
        return model, allowed_memory(self._settings.memory, layer_devices(model))

    def start(self) -> str:
        """Load the model. Returns the machine that it is on; raises A2SFError if the model cannot be loaded."""
        import ray

        assert self._loaded
        return str(ray.get_runtime_context().get_node_id())

    def run(self, wanted: Wanted, share: int, what: Callable[..., Any], given: Sequence[Any]) -> Any:
        """`what(holder, *given)`; the prompts of an engine may take one `share`th of the memory."""
        holder = self._holder(wanted, share)
        holder.told = self._one_more
        return what(holder, *given)

    def pid(self) -> int:
        """Of the process that this is now."""
        return os.getpid()

    def done(self) -> int:
        """Pieces of long work done since the process began, for whoever watches."""
        return self._done

    def _holder(self, wanted: Wanted, share: int) -> Holder:
        import ray

        version, holder = self._held.get(wanted.engine, (-1, None))
        if holder and version == wanted.version:
            return holder
        model, memory = self._loaded
        portion: Portion = ray.get(wanted.portion)
        if holder and holder.portion.learn_from and not portion.learn_from:
            holder.learn(portion.bank.own)
        else:
            limit = None if portion.memory is None else memory // share
            holder = Holder(model, replace(portion, memory=limit), self._one_more)
        self._held[wanted.engine] = wanted.version, holder
        return holder

    @property
    def _one_more(self) -> Told:
        def told() -> None:
            self._done += 1

        return told
