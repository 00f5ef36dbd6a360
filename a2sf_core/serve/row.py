"""A job while it is answered: its cache, its text and its random numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from a2sf_core.cache import A2SFCache
from a2sf_core.context import pieces
from a2sf_core.placement import input_device
from a2sf_core.policy import Policy
from a2sf_core.serve.cost import CacheCost
from a2sf_core.serve.job import Ended, Job, Piece
from a2sf_core.serve.sampling import Chooser
from a2sf_core.serve.served import Served
from a2sf_core.serve.shadow import Compared, whole_fork
from a2sf_core.serve.text import Writer
from a2sf_core.switch import cache_argument


class Row:
    """One job's part in the batch.

    Attributes:
        served: what answers it.
        caches: the one that answers first; behind it, once the prompt is read, its shadow if it has one.
        held: bytes that its caches may grow to once the prompt is cut.
        peak: bytes at most, reading included.
        left: pieces of the prompt still to be read, as (start, stop); None before the first.
        has_read: whether its cache holds anything.
        compared: the shadow with the full cache.
    """

    def __init__(self, job: Job, model: Any, tokenizer: Any, served: Served) -> None:
        """An empty cache; nothing large is made before it is read."""
        self.job, self.served = job, served
        self.caches = [A2SFCache(served.policy)]
        self.cost = CacheCost.of(model, served.policy)
        self.held = self.cost.holding(len(job.ids), job.most)
        if served.is_shadow:
            whole = replace(self.cost, policy=Policy.full(len(served.policy.layers)))
            self.held += whole.holding(len(job.ids), job.most)
        self.peak = max(self.held, self.cost.reading(len(job.ids)))
        self.compared = Compared()
        self.writer = Writer(tokenizer, job.stop)
        self.left: deque[tuple[int, int]] | None = None
        self.has_read = False
        self._chooser = Chooser(job.sampling, input_device(model))

    @property
    def seen(self) -> int:
        """Tokens read and written so far."""
        return self.caches[0].get_seq_length()

    @property
    def age(self) -> float:
        """Seconds since the request came."""
        return monotonic() - self.job.came

    def read(self, model: Any, size: int) -> Tensor | None:
        """Read `size` tokens of the prompt more. Returns the next token's logits `[1, vocabulary]` if all is read."""
        if self.left is None:
            self.left = deque(pieces(len(self.job.ids), size))
        start, stop = self.left.popleft()
        device = input_device(model)
        logits = model(
            input_ids=torch.tensor([self.job.ids[start:stop]], device=device),
            position_ids=torch.arange(start, stop, device=device)[None],
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(model): self.caches[0]},
        ).logits
        self.has_read = True
        return None if self.left else logits[:, -1]

    def end_reading(self) -> None:
        """Cut the prompt, for the last time; with a shadow, that one, and what answers keeps all."""
        pruned = self.caches[0]
        if self.served.is_shadow:
            self.caches.insert(0, whole_fork(pruned))
        pruned.cut()  # before it is sealed: a sealed cache would pass for a context without its question
        pruned.seal()

    def kept(self, cache: A2SFCache) -> int:
        """Tokens that one of its caches holds, the mean over layers and KV heads."""
        counts = [float(layer.kept_counts().float().mean()) for layer in cache.layers]
        return round(sum(counts) / len(counts))

    def write(self, logits: Tensor, ends: frozenset[int]) -> Ended | None:
        """Choose the next token and tell its text. Returns what to tell last, if it ends.

        Args:
            logits: `[cache, vocabulary]`, of its caches in their order.
            ends: tokens that end the answer.

        Raises:
            ArithmeticError: if the logits are not finite.
        """
        token = self._chooser.choose(logits[0])
        if len(logits) > 1:
            self.compared.add(*logits)
        text = self.writer.add(token)
        is_end = token in ends
        has_ended = is_end or self.writer.is_stopped or len(self.writer.tokens) >= self.job.most
        if has_ended:
            text += self.writer.end()
        if text:
            self.job.tell(Piece(text))
        if not has_ended:
            return None
        return Ended(
            "stop" if is_end or self.writer.is_stopped else "length",
            len(self.job.ids),
            len(self.writer.tokens),
            self.kept(self.caches[0]),
            self.seen,
        )
