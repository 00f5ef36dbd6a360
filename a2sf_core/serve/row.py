"""A job while it is answered: its cache, its text and its random numbers."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from a2sf_core.cache import A2SFCache
from a2sf_core.context import pieces
from a2sf_core.policy import Policy
from a2sf_core.serve.cost import CacheCost
from a2sf_core.serve.job import Ended, Job, Piece
from a2sf_core.serve.sampling import Chooser
from a2sf_core.serve.text import Writer
from a2sf_core.switch import cache_argument


class Row:
    """One job's part in the batch.

    Attributes:
        held: bytes that its cache may grow to once the prompt is cut.
        peak: bytes at most, reading included.
        left: pieces of the prompt still to be read, as (start, stop); None before the first.
        has_read: whether its cache holds anything.
    """

    def __init__(self, job: Job, model: Any, tokenizer: Any, policy: Policy) -> None:
        """An empty cache; nothing large is made before it is read."""
        self.job = job
        self.cache = A2SFCache(policy)
        self.cost = CacheCost.of(model, policy)
        self.held = self.cost.holding(len(job.ids), job.most)
        self.peak = max(self.held, self.cost.reading(len(job.ids)))
        self.writer = Writer(tokenizer, job.stop)
        self.left: deque[tuple[int, int]] | None = None
        self.has_read = False
        self._chooser = Chooser(job.sampling, model.device)

    @property
    def age(self) -> float:
        """Seconds since the request came."""
        return monotonic() - self.job.came

    def read(self, model: Any, size: int) -> Tensor | None:
        """Read `size` tokens of the prompt more. Returns the logits of the next token `[vocabulary]` if all is read."""
        if self.left is None:
            self.left = deque(pieces(len(self.job.ids), size))
        start, stop = self.left.popleft()
        logits = model(
            input_ids=torch.tensor([self.job.ids[start:stop]], device=model.device),
            position_ids=torch.arange(start, stop, device=model.device)[None],
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(model): self.cache},
        ).logits
        self.has_read = True
        return None if self.left else logits[0, -1]

    def write(self, logits: Tensor, ends: frozenset[int]) -> Ended | None:
        """Choose the next token from `logits` `[vocabulary]` and tell its text. Returns what to tell last, if it ends.

        Raises:
            ArithmeticError: if the logits are not finite.
        """
        token = self._chooser.choose(logits)
        text = self.writer.add(token)
        is_end = token in ends
        has_ended = is_end or self.writer.is_stopped or len(self.writer.tokens) >= self.job.most
        if has_ended:
            text += self.writer.end()
        if text:
            self.job.tell(Piece(text))
        if not has_ended:
            return None
        kept = [float(layer.kept_counts().float().mean()) for layer in self.cache.layers]
        return Ended(
            "stop" if is_end or self.writer.is_stopped else "length",
            len(self.job.ids),
            len(self.writer.tokens),
            round(sum(kept) / len(kept)),
            self.cache.get_seq_length(),
        )
