"""The last step of a model: its output embeddings, which make logits of the last hidden states.

Logits of a real model's vocabulary are dear to hold, the states that they come from are small, and giving them to the
same module again gives the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Head:
    """That of `model`, if nothing comes after it: some models scale or bend what their output embeddings say."""

    def __init__(self, model: Any) -> None:
        self._module: nn.Module | None = model.get_output_embeddings()
        ids = torch.arange(8, device=model.device)[None]  # several: the states of a token for padding may be zeros
        with torch.no_grad(), self.states() as seen:
            logits = model(input_ids=ids).logits
            if len(seen) != 1 or not torch.equal(self.logits(seen[0]), logits):
                self._module = None

    @contextmanager
    def states(self) -> Iterator[list[Tensor]]:
        """Inside, what the head is given is put into the list, call by call: nothing where it is not used."""
        seen: list[Tensor] = []
        if self._module is None:
            yield seen
            return
        hook = self._module.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            yield seen
        finally:
            hook.remove()

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """`[batch, token, vocab]` of `[batch, token, width]`, bit for bit as before."""
        if self._module is None:
            raise ValueError("nothing is known of what comes after the states")
        logits: Tensor = self._module(states)
        return logits
