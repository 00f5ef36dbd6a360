"""Measuring what is needed to say a prompt again, on as many search prompts as it takes to be sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from a2sf_core.placement import input_device
from a2sf_core.reread import attention_when_reread
from tuner.inputs.encoding import Encoded
from tuner.measuring.memory import enough_memory
from tuner.search.profile_part import Part
from tuner.search.reconstruction import TOTALS, Reconstruction, kept_shares
from tuner.watch import Progress

MOST_PROMPTS, FEWEST_PROMPTS = 8, 3
STABLE = 0.05
"""Standard error, in parts of the total, at which no further prompt is asked."""
READINGS = 3
"""What reading a prompt twice and looking at it costs, in readings of that prompt."""


@dataclass(frozen=True)
class Reread:
    """What was found, by places in the samples, and how many prompts were shortened to fit the model twice."""

    profile: Reconstruction
    rows: tuple[int, ...]
    n_shortened: int
    tokens: int

    @property
    def cost(self) -> int:
        """In prompt tokens read."""
        return READINGS * self.tokens


def prompts_to_reread(samples: Sequence[Encoded], seed: int, most_tokens: float) -> list[int]:
    """Places of the prompts to look at: at most `MOST_PROMPTS`, half of all, and what `most_tokens` pay for.

    One is always looked at. The others stay for judging what it says. A context with several questions counts once.
    """
    first = {sample.prompt_ids: place for place, sample in reversed(list(enumerate(samples)))}
    places = sorted(first.values())
    shuffled = np.array(places)[np.random.default_rng(seed).permutation(len(places))]
    shuffled = shuffled[: max(1, min(MOST_PROMPTS, len(places) // 2))]
    cost = np.cumsum([READINGS * len(samples[row].prompt_ids) for row in shuffled])
    return [int(row) for row, spent in zip(shuffled, cost, strict=True) if spent <= most_tokens or row == shuffled[0]]


def shortened(ids: Sequence[int], most: int) -> list[int]:
    """At most `most` tokens: the first half of them and the last."""
    if len(ids) <= most:
        return list(ids)
    return [*ids[: most - most // 2], *ids[len(ids) - most // 2 :]]


def measure_reconstruction(
    model: Any, samples: Sequence[Encoded], rows: Sequence[int], limit: int, part: Part, progress: Progress
) -> Reread:
    """Read the prompts of the samples in `rows` twice, one after the other, until their mean is known well enough.

    Args:
        limit: tokens that the model takes; a prompt of more than half of it is shortened in the middle.
        part: what a run that was stopped found already.
        progress: called with (layers of prompts done, in all).
    """
    n_layers: int = model.config.get_text_config().num_hidden_layers
    total = len(rows) * n_layers
    kept: list[np.ndarray] = []
    done: list[int] = []
    section = f"shares kept at {TOTALS}"
    for place, row in enumerate(rows):
        ids = shortened(samples[row].prompt_ids, limit // 2)
        if part.get(section, str(row)) is None:
            with enough_memory(f"reading a prompt of {len(ids)} tokens twice"):
                attention = attention_when_reread(
                    model,
                    torch.tensor([ids], device=input_device(model)),
                    partial(_further, progress, place * n_layers, total),
                )
            part.put(section, str(row), kept_shares(attention.cpu().numpy()).round(4).tolist())
        kept.append(np.array(part.get(section, str(row))))
        done.append(row)
        if len(done) >= FEWEST_PROMPTS and Reconstruction(np.stack(kept)).spread() < STABLE:
            break
    progress(total, total)
    lengths = [len(samples[row].prompt_ids) for row in done]
    used = sum(min(length, limit // 2) for length in lengths)
    return Reread(Reconstruction(np.stack(kept)), tuple(done), sum(length > limit // 2 for length in lengths), used)


def _further(progress: Progress, before: int, total: int, layer: int, _: int) -> None:
    progress(before + layer, total)
