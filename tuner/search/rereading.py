"""Measuring what is needed to say a prompt again, on as many search prompts as it takes to be sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from a2sf_core.placement import input_device
from a2sf_core.reread import attention_when_reread
from tuner.inputs.encoding import Encoded
from tuner.measuring.blocks import Told
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder
from tuner.measuring.memory import enough_memory
from tuner.search.profile_part import Part
from tuner.search.reconstruction import TOTALS, Reconstruction, kept_shares
from tuner.watch import Count, Progress

MOST_PROMPTS, FEWEST_PROMPTS = 8, 3
STABLE = 0.05
"""Standard error, in parts of the total, at which no further prompt is asked."""
READINGS = 3
"""What reading a prompt twice and looking at it costs, in readings of that prompt."""


@dataclass(frozen=True)
class TwiceReader:
    """What reads a prompt twice.

    n_layers: layers of its model. shares: called with a prompt's tokens, and what is told of every layer that is
    through; gives the shares that each head keeps, `[total, layer, kv_head]` as in `kept_shares`. Raises A2SFError if
    memory runs out.
    """

    n_layers: int
    shares: Callable[[Sequence[int], Told], np.ndarray]

    @classmethod
    def at(cls, engine: Engine) -> TwiceReader:
        """The model beside the engine's prompts."""
        return cls(engine.n_layers, lambda ids, further: engine.somewhere(_kept_at, ids, told=further))

    @classmethod
    def of(cls, model: Any) -> TwiceReader:
        """This model."""
        return cls(model.config.get_text_config().num_hidden_layers, partial(_kept, model))


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


def prompts_to_look_at(samples: Sequence[Encoded], seed: int, most_tokens: float) -> list[int]:
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
    reader: TwiceReader, samples: Sequence[Encoded], rows: Sequence[int], limit: int, part: Part, progress: Progress
) -> Reread:
    """Read the prompts of the samples in `rows` twice, one after the other, until their mean is known well enough.

    Args:
        reader: reads one of them twice.
        limit: tokens that the model takes; a prompt of more than half of it is shortened in the middle.
        part: what a run that was stopped found already.
        progress: called with (layers of prompts done, in all).
    """
    kept: list[np.ndarray] = []
    done: list[int] = []
    section, count = f"shares kept at {TOTALS}", Count(progress, len(rows) * reader.n_layers)
    for row in rows:
        if part.get(section, str(row)) is None:
            shares = reader.shares(shortened(samples[row].prompt_ids, limit // 2), count.one)
            part.put(section, str(row), shares.round(4).tolist())
        else:
            count.skip(reader.n_layers)
        kept.append(np.array(part.get(section, str(row))))
        done.append(row)
        if len(done) >= FEWEST_PROMPTS and Reconstruction(np.stack(kept)).spread() < STABLE:
            break
    count.close()
    lengths = [len(samples[row].prompt_ids) for row in done]
    used = sum(min(length, limit // 2) for length in lengths)
    return Reread(Reconstruction(np.stack(kept)), tuple(done), sum(length > limit // 2 for length in lengths), used)


def _kept_at(holder: Holder, ids: Sequence[int]) -> np.ndarray:
    return _kept(holder.model, ids, holder.told)


def _kept(model: Any, ids: Sequence[int], further: Told) -> np.ndarray:
    """Shares that each head keeps, `[total, layer, kv_head]` as in `kept_shares`; `further` is told of each layer."""
    with enough_memory(f"reading a prompt of {len(ids)} tokens twice"):
        prompt = torch.tensor([ids], device=input_device(model))
        attention = attention_when_reread(model, prompt, lambda _done, _total: further())
    return kept_shares(attention.cpu().numpy())
