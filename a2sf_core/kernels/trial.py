"""Before the kernels are used on a device, a small call there is held to the plain code.

Compilers and drivers differ, and a wrong order of tokens would not be noticed by anyone who looks at the answers.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from a2sf_core.kernels import dispatch
from a2sf_core.plain import scores as plain
from a2sf_core.plain.span import Span

N, HALF_LIVES = 96, (0.0, 8.0, 64.0, inf)


def complaint(device: torch.device, dtype: torch.dtype, dim: int, allowed: float) -> str:
    """What is wrong with the kernels on `device` for this dtype and head size; empty if no error is over `allowed`.

    Raises:
        torch.OutOfMemoryError: if the device is full, which says nothing about the kernels.
    """
    random = torch.Generator(device).manual_seed(0)
    query = torch.randn(1, 4, N, dim, device=device, generator=random).to(dtype)
    key, value = (torch.randn(1, 2, N, dim, device=device, generator=random).to(dtype) for _ in range(2))
    scale = dim**-0.5
    positions = torch.arange(N, device=device).expand(1, 2, N)
    try:
        errors = []
        for window in (None, 40):
            span = Span(0, positions, None, window)
            wanted = plain.attend_and_score(query, key, value, HALF_LIVES, scale, span)
            errors.append(_error(dispatch.attend_and_score(query, key, value, HALF_LIVES, scale, span), wanted))
            if window is None:
                errors.append(_error(dispatch.attend_and_score_causal(query, key, value, HALF_LIVES, scale), wanted))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver may say
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}"
    if max(errors) <= allowed:  # NaN is not
        return ""
    return f"an error of {max(errors):.1e}, where {allowed:g} is allowed"


def _error(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    worst = [
        float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(got, wanted, strict=True)
    ]
    return inf if any(error != error for error in worst) else max(worst)
