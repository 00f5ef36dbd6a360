"""A layer of several caches that step together: one row of the batch for each, which joins and leaves as it likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from a2sf_core.errors import A2SFError
from a2sf_core.layers.base import PruningLayer


class RowsLayer(PruningLayer):
    """One decoder layer of caches that have each read a prompt of their own, alone.

    The model's matrix products run over all rows at once, attention row by row, each over what its own cache holds:
    nothing is padded, rows may follow different policies, and a row attends to the last bit as it would alone.

    Attributes:
        rows: one filled layer of batch size 1 for each row, which stays its cache's own.
        keys, values: always None; ask the `rows`.
    """

    def __init__(self, rows: Sequence[PruningLayer]) -> None:
        """Raises A2SFError if there are none, or one has read nothing."""
        super().__init__()
        if not rows or not all(row.is_initialized for row in rows):
            raise A2SFError("a batch needs one or more caches, and each must have read its prompt.")
        self.rows = list(rows)
        self.is_initialized = True

    # ---- what transformers and the attention function call ----------------------------------------------

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: every row has read something."""

    def begin_forward(self, n: int) -> None:
        """Prepare every row for its one new token."""
        if n != 1:
            raise A2SFError(f"rows step one token at a time, not {n}; each reads its prompt in a cache of its own.")
        for row in self.rows:
            row.begin_forward(n)

    def get_seq_length(self) -> int:
        """Of the longest row. Rows stand at different places, so a step must be given its `position_ids`."""
        return max(row.get_seq_length() for row in self.rows)

    # ---- what the rows' own caches are asked for instead ------------------------------------------------

    def cut(self) -> None:
        """Evict in every row that has read more prompt since its last cut."""
        for row in self.rows:
            row.cut()

    @property
    def is_sealed(self) -> bool:
        """Whether all rows are."""
        return all(row.is_sealed for row in self.rows)

    def kept_counts(self) -> Tensor:
        """Tokens that each row holds now: int64 `[row, kv_head]`."""
        return torch.cat([row.kept_counts() for row in self.rows])

    def seal(self) -> NoReturn:
        """Raises A2SFError, like all that changes which rows there are."""
        _refuse()

    def fork(self) -> NoReturn:
        """Raises A2SFError."""
        _refuse()

    def reset(self) -> NoReturn:
        """Raises A2SFError."""
        _refuse()

    def batch_select_indices(self, indices: Tensor) -> NoReturn:  # noqa: ARG002
        """Raises A2SFError."""
        _refuse()


def in_rows(caches: Sequence[Any]) -> list[RowsLayer]:
    """The layers of a batch of `caches`, each of which has read its prompt."""
    return [RowsLayer(layers) for layers in zip(*(cache.layers for cache in caches), strict=True)]


def _refuse() -> NoReturn:
    raise A2SFError("a batch of rows is made anew for every step; ask the cache of a row instead.")
