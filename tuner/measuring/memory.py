"""How much memory the prompts may take, and one sentence where it was not enough."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from a2sf_core.errors import A2SFError
from tuner.choices import parse_bytes

BATCH_TOKENS, BATCH_BYTES = 32_768, 4 * 2**30
"""A batch of a trial is at most this many tokens (found on a CPU), and this many bytes of keys and values."""


@dataclass(frozen=True)
class Room:
    """Bytes that prompts may take on the model's devices and in host memory (0 where the two are one)."""

    device: float
    host: float


def tokens_at_once(bytes_per_token: int) -> int:
    """Prompt tokens that a trial works on at once, for keys and values of so many bytes per token.

    The more the faster, as a batch costs the same calls whatever its size; but it holds a copy of what it keeps.
    """
    return max(1, min(BATCH_TOKENS, BATCH_BYTES // bytes_per_token))


def allowed_memory(asked: str | None, devices: Sequence[torch.device], processes: int = 1) -> int:
    """Bytes from what --memory says, such as "8GiB"; what is left of the machine if it says nothing.

    `devices`: where each layer is. `processes`: as many share the machine, but no GPU.
    """
    return parse_bytes(asked) // processes if asked else default_memory(devices, processes)


def default_memory(devices: Sequence[torch.device], processes: int = 1) -> int:
    """Half of what is free now: of the host, shared by `processes`, and of all GPUs among `devices`."""
    return (_free_on_host() // processes + sum(map(_free_on_gpu, set(devices)))) // 2


def room(
    memory: int | None, devices: Sequence[torch.device], free: Callable[[torch.device], int] | None = None
) -> Room:
    """How a limit of `memory` bytes (None: no limit) is shared: the devices first, up to half of their free memory.

    A block takes of each GPU as large a part as that has of the layers, so that the fullest one sets the limit.

    Args:
        devices: where each layer is.
        free: bytes that are free on a GPU; None asks it.
    """
    if memory is None:
        return Room(float("inf"), 0)
    layers = Counter(device for device in devices if device.type == "cuda")
    if not layers:
        return Room(memory, 0)
    ask = free or _free_on_gpu
    on_device = min(memory, *(ask(gpu) // 2 * len(devices) // n for gpu, n in layers.items()))
    return Room(on_device, memory - on_device)


def _free_on_host() -> int:
    """What Linux can hand out, its page cache included; elsewhere half of what is built in."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_on_gpu(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """Turn out-of-memory errors of any device inside the block into one sentence.

    Raises:
        A2SFError: if memory runs out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU allocator has no exception type of its own.
        plain = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if plain and "can't allocate memory" not in str(error):
            raise
        raise A2SFError(
            f"memory ran out while {doing}; lower --memory, so that fewer prompts are held, or the batch size."
        ) from error
