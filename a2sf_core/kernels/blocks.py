"""Tile shapes, and the short list of configurations that Triton times on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

# (rows of the tile that a program holds, warps, pipeline stages). At least one fits the 99 KB of shared memory
# of compute capability 8.6 and 8.9, whatever the head size; what does not fit a device, Triton leaves out.
_CANDIDATES = ((128, 8, 3), (128, 4, 3), (64, 4, 3), (64, 4, 2), (32, 4, 2), (16, 4, 2))
_HELD_BYTES = 64 * 1024
_STREAMED_BYTES = 16 * 1024

# In Triton's interpreter, which runs on CPU tensors: several blocks even in a small test.
_INTERPRETED = (16, 32)


def width(dim: int) -> int:
    """The head size padded to a power of two of at least 16, as tiles must be."""
    return max(16, triton.next_power_of_2(dim))


def streamed_rows(like: Tensor) -> int:
    """Rows of the tiles that a program streams through: a stage of the pipeline is at most 16 KB.

    Scores are summed block of queries by block of queries, so this must not depend on the device or on timings:
    the tuner compares the order of scores.
    """
    if not like.is_cuda:
        return _INTERPRETED[0]
    return min(64, max(16, _STREAMED_BYTES // (width(like.shape[-1]) * like.element_size())))


def held_rows(like: Tensor) -> int:
    """Rows of the tile that a program holds, where it must be known before the launch.

    float32 has half the bytes of the others: its factors are split in two for tf32, and both parts need room.
    """
    if not like.is_cuda:
        return _INTERPRETED[1]
    held_bytes = _HELD_BYTES // (4 if like.element_size() == 4 else 2)
    return min(128, held_bytes // (width(like.shape[-1]) * like.element_size()))


def bucket(n: int) -> int:
    """Lengths that share a configuration: up to the same power of two, 1024 at least."""
    return max(1024, triton.next_power_of_2(n))


def launch(
    kernel: Any,
    like: Tensor,
    held: str,
    rows: int | None,
    programs: Callable[[int], int],
    arguments: Sequence[Any],
    constants: dict[str, Any],
    apart: tuple[Any, ...],
) -> None:
    """Run a kernel with the fastest of its configurations, which are timed on first use.

    Args:
        like: a tensor on the device and of the dtype and head size of the call.
        held: name of the kernel's argument for the rows it holds.
        rows: their number if the caller has fixed it, None to try several.
        programs: how many programs a number of such rows makes.
        arguments, constants: the kernel's other arguments.
        apart: what tells calls apart that should be timed apart.
    """
    if not like.is_cuda:  # the interpreter cannot time anything
        rows = rows or _INTERPRETED[1]
        kernel[(programs(rows),)](*arguments, **constants, **{held: rows})
        return
    fastest = _tuned(kernel, held, rows, width(like.shape[-1]) * like.element_size(), apart)
    with torch.cuda.device_of(like):  # Triton launches on the current device, wherever the tensors are
        fastest[lambda meta: (programs(meta[held]),)](*arguments, **constants)


def candidates(held: str, rows: int | None, row_bytes: int) -> list[triton.Config]:
    """The configurations to choose from, for rows of so many bytes."""
    some = [c for c in _CANDIDATES if c[0] * row_bytes <= _HELD_BYTES and rows in (None, c[0])]
    return [triton.Config({held: r}, num_warps=warps, num_stages=stages) for r, warps, stages in some]


@cache
def _tuned(kernel: Any, held: str, rows: int | None, row_bytes: int, _: tuple[Any, ...]) -> Any:
    return triton.autotune(candidates(held, rows, row_bytes), key=[])(kernel)


def multiprocessors(device: torch.device) -> int:
    """How many programs it takes to fill the device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
