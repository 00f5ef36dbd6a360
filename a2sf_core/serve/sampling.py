"""The next token of a row, as `model.generate` would choose it with the same settings and the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability; 1 for all.
        seed: of this row alone, so that a text does not hang on what runs beside it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Chooser:
    """Chooses the tokens of one row; a row's random numbers are its own."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        """For logits on `device`."""
        self._is_greedy = sampling.temperature == 0
        self._warpers = LogitsProcessorList()
        if self._is_greedy:
            return
        self._generator = torch.Generator(device).manual_seed(sampling.seed)
        if sampling.temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, logits: Tensor) -> int:
        """A token from `logits` `[vocabulary]`.

        Raises:
            ArithmeticError: if they are not finite, so that any token would be a wrong one.
        """
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the model's logits are not finite")
        if self._is_greedy:
            return int(logits.argmax(-1))
        scores = self._warpers(None, logits[None].float())  # [1, vocabulary]
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
