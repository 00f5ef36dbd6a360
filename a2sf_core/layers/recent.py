"""Scores over a window: the plain attention sum of the last queries only (SnapKV, arXiv 2404.14469)."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from a2sf_core.plain.span import Span
from a2sf_core.scores import score


class RecentQueries:
    """The last queries of one layer, held until it is known which of them were the prompt's last.

    A decaying score is carried from forward to forward; a window cannot be: its queries must be the last ones
    and a prompt may come in several forwards.

    Attributes:
        scale, sliding_window: of the attention that the queries belong to.
    """

    def __init__(self, most: int) -> None:
        """Hold the last `most` queries; none for 0."""
        self.most = most
        self._held: tuple[Tensor, Tensor] | None = None
        self.scale = 1.0
        self.sliding_window: int | None = None

    def add(self, query: Tensor, valid: Tensor | None, scale: float, sliding_window: int | None) -> None:
        """Take in queries `[batch, head, query, dim]`, valid bool `[batch, query]` or None."""
        if not self.most:
            return
        if valid is None:
            valid = torch.ones(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)
        if self._held is not None:
            query = torch.cat([self._held[0], query], dim=2)
            valid = torch.cat([self._held[1], valid], dim=1)
        self._held = query[:, :, -self.most :].clone(), valid[:, -self.most :]
        self.scale, self.sliding_window = scale, sliding_window

    @property
    def held(self) -> tuple[Tensor, Tensor] | None:
        """The last queries `[batch, head, query, dim]` and bool `[batch, query]`, False for padding."""
        return self._held

    def scores(self, window: int, keys: Tensor, positions: Tensor, seen: int) -> Tensor:
        """Plain attention of the last `window` queries: float32 `[batch, kv_head, slot]`.

        Args:
            window: queries, at most as many as are held.
            keys: `[batch, kv_head, slot, dim]`.
            positions: int64 `[batch, kv_head, slot]`, -1 for unused slots.
            seen: tokens seen so far; the last query held stands at `seen - 1`.
        """
        assert self._held is not None, "no query has passed yet"
        query, valid = self._held
        span = Span(seen - query.shape[2], positions, valid, self.sliding_window)
        return score(query, keys, (inf,), self.scale, span, window)[0]

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if self._held is not None:
            self._held = self._held[0][rows], self._held[1][rows]

    def reset(self) -> None:
        """Forget all queries."""
        self._held = None
