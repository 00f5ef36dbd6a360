"""Measuring the Fisher profile: one backward pass over the texts of each of a few search prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from a2sf_core.rules.attention import Decay
from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder
from tuner.measuring.memory import enough_memory
from tuner.measuring.token_losses import draws, gives_gradients, token_losses
from tuner.search.fisher import SHARES, TOGETHER, Fisher, rounded
from tuner.search.profile_part import Part
from tuner.search.reconstruction import SINK
from tuner.watch import Count, Progress

READINGS = 1.5
"""What looking at a prompt costs, in readings of it."""


def can_measure_fisher(engine: Engine) -> bool:
    """False where the model gives no gradients, see `gives_gradients`."""
    return engine.somewhere(_gives_gradients)


def measure_fisher(
    engine: Engine, rows: Sequence[int], half_lives: Sequence[float], seed: int, part: Part, progress: Progress
) -> Fisher:
    """Look at the samples in `rows`.

    Args:
        engine: has read them; its model gives gradients.
        half_lives: in its bank, by which tokens may be dropped; the profile uses the first until told otherwise.
        seed: of what is drawn from the model's predictions.
        part: what a run that was stopped found already.
        progress: called with (samples done, in all).
    """
    section, count = f"losses at {SHARES} by {half_lives}, seed {seed}", Count(progress, len(rows))
    progress(0, len(rows))
    for index in range(engine.n_blocks):
        wanted = [row for row in engine.portion.rows(index) if row in rows]
        unknown = [row for row in wanted if part.get(section, str(row)) is None]
        count.skip(len(wanted) - len(unknown))
        for found in engine.everywhere(_curves, index, unknown, half_lives, seed, told=count.one) if unknown else ():
            for row, curves in found.items():
                part.put(section, str(row), rounded(curves))
    count.close()
    losses = np.mean([np.array(part.get(section, str(row))) for row in rows], 0)
    return Fisher(tuple(half_lives), losses, len(rows), half_lives[0])


def _gives_gradients(holder: Holder) -> bool:
    return gives_gradients(holder.model)


def _curves(
    holder: Holder, index: int, rows: Sequence[int], half_lives: Sequence[float], seed: int
) -> dict[int, np.ndarray]:
    """Curves `[half_life, layer, kv_head, share]` of the samples `rows`, all of block `index`, if that is held here."""
    found: dict[int, np.ndarray] = {}
    if index not in holder.portion.blocks:
        return found
    places = [holder.reader.bank.shared.index(Decay(half_life)) for half_life in half_lives]
    block = holder.load(index)
    with enough_memory("looking at what tokens are worth"), answering(holder.model):
        for batch in block:
            for place, row in enumerate(batch.samples):
                if row in rows:
                    losses = token_losses(holder.reader, batch, place, draws(seed, row))
                    found[row] = loss_curves(batch, place, losses, places).numpy()
                    holder.told()
    return found


def loss_curves(batch: PromptBatch, row: int, losses: Sequence[Tensor], orders: Sequence[int]) -> Tensor:
    """What heads lose at `SHARES` of the tokens of row `row`, dropping the worst of each order first, the sink last.

    Args:
        losses: float32 `[kv_head, token]` per layer, of losing one token alone.
        orders: places among the orders that are held.

    Returns:
        float32 `[order, layer, kv_head, share]`, on the CPU.
    """
    n, prompt = int(batch.n_tokens[row]), int(batch.held[row])
    kept = torch.tensor([round(share * n) for share in SHARES])
    first = batch.mask.shape[1] - n  # the slot of the first token
    curves = []
    for layer, alone in zip(batch.layers, losses, strict=True):
        best_first = layer.orders[list(orders), prompt, :, :n].long() - first  # [order, kv_head, n]
        sink_first = (best_first >= SINK).to(torch.uint8).argsort(stable=True)
        best_first = best_first.gather(-1, sink_first)
        worth = alone.pow(TOGETHER).expand(len(orders), -1, -1).gather(-1, best_first).double()
        dropped = worth.flip(-1).cumsum(-1).flip(-1)  # [order, kv_head, n], from each token on
        dropped = torch.nn.functional.pad(dropped, (0, 1))  # nothing, where all are kept
        curves.append(dropped[..., kept.to(dropped.device)].float().cpu())
    return torch.stack(curves, 1)
