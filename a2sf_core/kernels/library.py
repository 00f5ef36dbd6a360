"""The library's fused attention, asked for the log-sum-exp that it computes anyway.

Stock SDPA picks one of its operators and throws the log-sum-exp away. The same operator is called here, so the
output is the stock one to the last bit and the log-sum-exp costs nothing: no pass of our own could be cheaper,
not even over the few queries that one short half-life needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

Operator = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""query, key, value, scale -> causal attention `[batch, head, query, dim]`, log-sum-exp `[batch, head, query]`."""


def causal_operator(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Operator | None:
    """The operator that stock SDPA would run for this causal attention, None if that one gives no log-sum-exp.

    Flash attention (Ampere, Ada) and cuDNN (Hopper and later) do, and take fewer KV heads than query heads. The
    others would want the keys repeated for every query head of a group.

    Args:
        query: `[batch, head, query, dim]`.
        key, value: `[batch, kv_head, query, dim]`.
        scale: factor of the dot product.
    """
    if not query.is_cuda or query.shape[-1] % 8:
        return None
    is_grouped = query.shape[1] != key.shape[1]
    choice = torch._fused_sdp_choice(query, key, value, None, 0.0, True, scale=scale, enable_gqa=is_grouped)
    if choice == SDPBackend.FLASH_ATTENTION.value:
        return _flash
    if choice == SDPBackend.CUDNN_ATTENTION.value:
        return _cudnn
    return None


# Private operators: the only ones that return the log-sum-exp.


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, scale=scale)
    return output, lse


def _cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, True, scale=scale
    )
    return output, lse.reshape(query.shape[:3])  # some versions say [batch, head, query, 1]
