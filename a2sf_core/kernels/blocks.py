"""Tile shapes, and the short list of configurations that Triton times on first use."""

from __future__ import annotations

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
    return min(64, _STREAMED_BYTES // (width(like.shape[-1]) * like.element_size()))


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


@cache
def tuned(kernel: Any, held: str, rows: int | None, row_bytes: int, is_cuda: bool, *_: Any) -> Any:
    """`kernel` with Triton's autotuner around it.

    Args:
        held: name of the kernel's argument for the rows it holds.
        rows: their number if the caller has fixed it, None to try several.
        row_bytes: bytes of one row of a tile.
        is_cuda: False in the interpreter, which cannot time anything.

    Whatever else is passed only tells calls apart that should be timed apart.
    """
    if not is_cuda:
        return triton.autotune([triton.Config({held: rows or _INTERPRETED[1]})], key=[])(kernel)
    candidates = [c for c in _CANDIDATES if c[0] * row_bytes <= _HELD_BYTES and rows in (None, c[0])]
    configs = [triton.Config({held: r}, num_warps=warps, num_stages=stages) for r, warps, stages in candidates]
    return triton.autotune(configs, key=[])(kernel)


def multiprocessors(device: torch.device) -> int:
    """How many programs it takes to fill the device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
