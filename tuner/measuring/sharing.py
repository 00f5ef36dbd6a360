"""How many actors a cluster holds, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from a2sf_core.errors import A2SFError

FEWEST = 2
"""Actors where there are no GPUs, and fewer machines than that."""


@dataclass(frozen=True)
class Share:
    """So many actors, each with so many cores and GPUs of one machine."""

    count: int
    cores: int
    gpus: int


def shared_out(machines: Sequence[Mapping[str, float]], wanted: int | None, uses_gpus: bool, spreads: bool) -> Share:
    """As much for each actor as all of them can have.

    Args:
        machines: of each its "CPU" and "GPU", as Ray counts them; none of either where it is not named.
        wanted: actors; None for one on each GPU, or where there is none one on each machine, but `FEWEST` at least.
        uses_gpus: whether the model may go onto GPUs.
        spreads: whether an actor can use several.

    Raises:
        A2SFError: if there is no room for so many.
    """
    gpus = [int(machine.get("GPU", 0)) for machine in machines] if uses_gpus else []
    if sum(gpus):
        count = wanted or sum(gpus)
        _check_room(count, sum(gpus), "GPU")
        return Share(count, 1, _largest(gpus, count) if spreads else 1)
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    count = wanted or min(sum(cores), max(FEWEST, sum(here > 0 for here in cores)))
    _check_room(max(1, count), sum(cores), "core")
    return Share(count, _largest(cores, count), 0)


def _check_room(count: int, there: int, what: str) -> None:
    if count > there:
        raise A2SFError(
            f"--actors {count} need a {what} each, and the Ray cluster has {there}; ask for fewer, or let more "
            "machines join it."
        )


def _largest(there: Sequence[int], count: int) -> int:
    """The largest piece that machines with so many each can be cut into `count` times."""
    return next(size for size in range(max(there), 0, -1) if sum(here // size for here in there) >= count)
