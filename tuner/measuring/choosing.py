"""Which of several answers is likeliest over kept keys and values: a multiple choice without any writing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch

from a2sf_core.policy import Policy
from tuner.measuring.answers import answering
from tuner.measuring.batch import pad
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder


def log_likelihoods(engine: Engine, policy: Policy, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Sum of the log-probabilities of the tokens of `texts`, one per sample of `engine`: float64 `[sample]`, nats."""
    found = np.zeros(len(texts))
    for rows, sums in engine.everywhere(_log_likelihoods, policy, texts):
        found[rows] = sums
    return found


@torch.no_grad()
def _log_likelihoods(holder: Holder, policy: Policy, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[float]]:
    """The samples that are held here, and the sums of their texts."""
    rows, sums, reader, gathers = [], [], holder.reader, holder.portion.gathers(policy)
    with answering(holder.model) if gathers else nullcontext():
        for batch, keep in holder.batches(policy):
            ids, valid = pad([texts[row] for row in batch.samples], batch.mask.device, left=False)
            logits = (
                reader.follow(batch, keep, ids, valid)
                if gathers
                else reader.follow_attached(batch, policy, ids, valid)[0]
            )  # [batch, token, vocab]
            log_probs = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]  # [batch, token]
            rows += batch.samples
            sums += (log_probs.double() * valid).sum(-1).tolist()
    return rows, sums


def right_choices(engine: Engine, policy: Policy) -> np.ndarray:
    """1.0 where the first of a sample's choices is likelier than all others, else 0.0: float64 `[sample]`.

    The sum over the tokens decides, whatever their number: "acc" of the LM Evaluation Harness.
    """
    choices = [sample.choice_ids for sample in engine.samples]
    table = np.full((len(choices), max(map(len, choices))), -np.inf)  # [sample, choice]
    for place in range(table.shape[1]):
        texts = [each[min(place, len(each) - 1)] for each in choices]
        has = np.array([place < len(each) for each in choices])
        table[has, place] = log_likelihoods(engine, policy, texts)[has]
    return (table[:, 1:].max(1) < table[:, 0]).astype(float)
