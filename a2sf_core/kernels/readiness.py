"""Whether kernels can serve a call, asked before anything imports Triton. Design and tolerances: docs/gpu.md."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

# With fewer queries than one tensor-core tile the plain code is at home: its rows of logits are small.
_FEWEST_QUERIES = 16

# Older ones crash on the float32 kernels, or were never tried.
_OLDEST_TRITON = (3, 4)

# Ampere: the first with bfloat16 and tf32 tensor cores, which the kernels are built on.
_OLDEST_CAPABILITY = (8, 0)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""What is allowed against float64: the largest error of a score or an output, over the largest one."""


def backend(query: Tensor, key: Tensor, value: Tensor | None = None) -> ModuleType | None:
    """`a2sf_core.kernels.dispatch` if this call is `usable`, else None."""
    return import_module("a2sf_core.kernels.dispatch") if usable(query, key, value) else None


def usable(query: Tensor, key: Tensor, value: Tensor | None = None) -> bool:
    """True where the kernels can take this call; warns once where a CUDA device could do better than it does.

    Args:
        query: `[batch, head, query, dim]`.
        key: `[batch, kv_head, key, dim]`.
        value: `[batch, kv_head, key, dim]`, None if only scores are wanted.
    """
    if not query.is_cuda or torch.version.hip is not None or query.shape[2] < _FEWEST_QUERIES:
        return False
    dtypes = {x.dtype for x in (query, key, value) if x is not None}
    if len(dtypes) > 1 or query.dtype not in TOLERANCE:
        return False
    dim = query.shape[-1]
    fits = dim <= 256 and (value is None or value.shape[-1] == dim)
    return fits and is_ready(query.device) and _agree(query.device, query.dtype, dim)


@cache
def is_ready(device: torch.device) -> bool:
    """True if `device`, a GPU, and the installed Triton are new enough for kernels; warns once if not."""
    if find_spec("triton") is None:
        _warn('scores on this GPU use plain PyTorch, which is slow; install "a2sf-tune[triton]".')
        return False
    version = import_module("triton").__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TRITON:
        _warn(f"scores on this GPU use plain PyTorch: Triton is {version}, and 3.4 is needed (PyTorch 2.8 brings it).")
        return False
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        name = f"{torch.cuda.get_device_name(device)} (compute capability {capability[0]}.{capability[1]})"
        _warn(f"scores on {name} use plain PyTorch: the kernels need compute capability 8.0.")
        return False
    return True


@cache
def _agree(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    wrong: str = import_module("a2sf_core.kernels.trial").complaint(device, dtype, dim, TOLERANCE[dtype])
    if wrong:
        _warn(f"scores on {torch.cuda.get_device_name(device)} use plain PyTorch: a trial of the kernels gave {wrong}.")
    return not wrong


@cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
