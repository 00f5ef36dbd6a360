"""The last step of a model: its output embeddings, which make logits of the last hidden states.

Logits of a real model's vocabulary are dear to hold, the states that they come from are small, and giving them to the
same module again gives the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Head:
    """That of `model`, if nothing comes after it: some models scale or bend what their output embeddings say."""

    def __init__(self, model: Any) -> None:
        self._module: nn.Module | None = model.get_output_embeddings()
        self._is_tried = False

    @contextmanager
    def states(self) -> Iterator[list[Tensor]]:
        """Inside, what the head is given is put into the list, call by call."""
        seen: list[Tensor] = []
        if self._module is None:
            yield seen
            return
        hook = self._module.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            yield seen
        finally:
            hook.remove()

    def behind(self, logits: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """The states `[batch, token - 1, width]` behind `logits` `[batch, token, vocab]`, but for the first token.

        Of no width where `seen`, what the head was given meanwhile, does not make them. That is tried once.
        """
        later = logits[:, 1:]
        if self._module is None or not later.numel():
            return logits.new_zeros(*later.shape[:2], 0)
        states = seen[-1].to(logits.device)
        if not self._is_tried and not torch.equal(self.logits(states), later):
            self._module = None
            return self.behind(logits, seen)
        self._is_tried = True
        return states

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """`[batch, token, vocab]` of `[batch, token, width]`, bit for bit as before and on the states' device."""
        if self._module is None:
            raise ValueError("nothing is known of what comes after the states")
        logits: Tensor = self._module(states).to(states.device)
        return logits
