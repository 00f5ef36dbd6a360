"""Where a model is: on one device or spread over several, whole in one process or its heads shared out to many."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from a2sf_core.errors import A2SFError

_NOT_A_GPU = ("cpu", "disk", "meta")


def input_device(model: Any) -> torch.device:
    """Where a transformers model takes its tokens: the device of its first weights, also where these are offloaded.

    "meta" only for a model without weights.
    """
    return _main_device(model) if model.device.type == "meta" else model.device


def layer_devices(model: Any) -> list[torch.device]:
    """Where each decoder layer computes and its keys and values lie."""
    found: dict[int, torch.device] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is not None and type(module).__name__.endswith("Attention"):
            weight = next(module.parameters(), None)
            place = _main_device(model) if weight is None else weight.device
            found[index] = _main_device(model) if place.type == "meta" else place
    return [found[index] for index in sorted(found)]


def _main_device(model: Any) -> torch.device:
    """Where offloaded weights compute: accelerate brings them to the first GPU of its map, or the CPU without one."""
    places = getattr(model, "hf_device_map", None)
    if not places:
        return model.device
    return torch.device(next((each for each in places.values() if each not in _NOT_A_GPU), "cpu"))


def n_processes(model: Any) -> int:
    """Over how many processes tensor parallelism shares the model out; 1 without it."""
    return getattr(model, "tp_size", None) or 1


def local_heads(n_here: int, n_heads: int) -> range:
    """Which of a layer's `n_heads` KV heads this process holds `n_here` of: all, or its part in the order of the ranks.

    Raises:
        A2SFError: if they are neither.
    """
    if n_here == n_heads:
        return range(n_heads)
    shared = distributed.is_available() and distributed.is_initialized()
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    if n_here * size != n_heads:
        among = f" in each of {size} processes" if size > 1 else ""
        raise A2SFError(
            f"the policy is for {n_heads} KV heads but the layer has {n_here}{among}; use a policy made for this model."
        )
    return range(rank * n_here, (rank + 1) * n_here)


def joined(own: bytes, model: Any) -> bytes:
    """`own`, as long in each, of every process that shares `model`, one after the other, so that all decide alike."""
    if n_processes(model) == 1:
        return own
    sent = torch.tensor(list(own), dtype=torch.uint8, device=input_device(model))  # [byte]; objects would be unpickled
    return of_all_processes(sent[None])[0].cpu().numpy().tobytes()


def of_all_processes(own: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """`own`, of one shape in every process, of all of them along dimension 1, and which part of that is this one's."""
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own.contiguous())
    rank, length = distributed.get_rank(), own.shape[1]
    return torch.cat(found, 1), slice(rank * length, (rank + 1) * length)


def mean_of_processes(own: torch.Tensor, model: Any) -> torch.Tensor:
    """The mean of a tensor over the processes that share `model`, of any shape that is the same in all."""
    if n_processes(model) > 1:
        own = own.clone()
        distributed.all_reduce(own)
    return own / n_processes(model)
