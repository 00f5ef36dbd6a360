"""Where the queries and keys of one call stand in the sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Where the queries and keys of one call stand in the sequence.

    Attributes:
        query_start: logical position of the first query; the others follow.
        key_pos: int64 `[batch, kv_head, key]`, logical position of each key, -1 for padding and empty slots.
        query_valid: bool `[batch, query]`, False for padding; None if no query is padding.
        sliding_window: a query at p sees keys at p - sliding_window + 1 .. p; None for all up to p.
    """

    query_start: int
    key_pos: Tensor
    query_valid: Tensor | None = None
    sliding_window: int | None = None

    def visible(self, start: int, stop: int) -> Tensor:
        """bool `[batch, kv_head, stop - start, key]`: what queries start..stop-1 of this call may see."""
        pos = torch.arange(self.query_start + start, self.query_start + stop, device=self.key_pos.device)
        key_pos = self.key_pos.unsqueeze(-2)  # [batch, kv_head, 1, key]
        seen = (key_pos >= 0) & (key_pos <= pos[:, None])  # [batch, kv_head, query, key]
        if self.sliding_window is not None:
            seen = seen & (key_pos > pos[:, None] - self.sliding_window)
        return seen


def last_queries(query: Tensor, span: Span, n: int) -> tuple[Tensor, Span]:
    """The last `n` queries of a call, fewer than it has, and where they stand."""
    skipped = query.shape[2] - n
    valid = None if span.query_valid is None else span.query_valid[:, skipped:]
    return query[:, :, skipped:], Span(span.query_start + skipped, span.key_pos, valid, span.sliding_window)
