"""One evaluator for all: what a kept set costs along two texts, read through the engine's own reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from a2sf_core.rules.position import Position
from tuner.inputs.encoding import Encoded
from tuner.measuring.answers import answering
from tuner.measuring.bank import Bank
from tuner.measuring.batch import PromptBatch
from tuner.measuring.keeping import keep_masks
from tuner.measuring.losses import TokenLosses
from tuner.measuring.portion import by_gathering
from tuner.measuring.reading import Reader

TEXTS = ("reference", "own")
FIGURES = ("kl", "nll", "changed", "accuracy")
"""Per text, as in `Losses`: KL to the full cache, likelihood of the text, top choice unlike the full cache's, right."""
FULL = "full cache"
FEW = 4
"""Rules of a policy up to which all layers rank by all of them; a policy with more has one for each layer."""
Keep = list[Tensor]
"""Per layer: bool `[1, kv_head, key]`."""
Figures = dict[str, Any]
"""`kept` (share of all keys) and, per text, the list of `FIGURES`."""


class OnePrompt:
    """One prompt that was read once, and its texts; a question behind the cut is read, not judged.

    Args:
        own: what the full cache writes.
    """

    def __init__(self, model: Any, asked: Encoded, own: Sequence[int]) -> None:
        self.model, self._asked = model, asked
        self.reader = Reader(model, [asked], Bank((Position(),)))
        self.batch: PromptBatch = self.reader.judged_along(self.reader.read([0]), [own])
        self.all: Keep = self.reader.all_of(self.batch)
        self.full = self.figures(self.all)

    def policies_keep(self, policies: Mapping[str, Policy]) -> dict[str, Keep]:
        """What ours keep; the prompt is read again for their rules, and once more for all that has the same learned."""
        for policy in policies.values():
            if not by_gathering(policy):
                raise A2SFError("Peers are compared by kept sets, cut once: the policy's evict must be 'prefill'.")
        rules = {key: tuple(layer.ranked_by for layer in policy.layers) for key, policy in policies.items()}
        alike = [key for key, own in rules.items() if len(set(own)) <= FEW]
        shared = dict.fromkeys([rule for key in alike for rule in rules[key]] + [Position()])
        banks = [(alike, Bank(tuple(shared)))] if alike else []
        learned = dict.fromkeys(own for key, own in rules.items() if key not in alike)
        banks += [([key for key in rules if rules[key] == own], Bank((Position(),), own)) for own in learned]
        return {
            key: keep_masks(batch, policies[key], bank)
            for keys, bank in banks
            for batch in [Reader(self.model, [self._asked], bank).read([0])]
            for key in keys
        }

    def peer_keeps(self, mask: np.ndarray) -> Keep:
        """From bool `[layer, kv_head, key]`."""
        shape = len(self.batch.layers), *self.batch.layers[0].keys.shape[1:3]
        if mask.shape != shape:
            raise A2SFError(f"a peer's kept set has the shape {mask.shape}, not {shape}.")
        return [torch.from_numpy(layer)[None].to(self.batch.mask.device) for layer in mask]

    def logits(self, keep: Keep) -> list[Tensor]:
        """`[1, token, vocab]` of each text: what predicts its tokens."""
        with answering(self.model):
            return self.reader.follow_each(self.batch, keep, [(text.ids, text.valid) for text in self.batch.texts])

    def figures(self, keep: Keep) -> Figures:
        """What this kept set costs along both texts."""
        found: Figures = {"kept": float(torch.stack([layer.double().mean() for layer in keep]).mean())}
        for name, text, logits in zip(TEXTS, self.batch.texts, self.logits(keep), strict=True):
            losses = TokenLosses.of(logits, text, self.reader.head)
            found[name] = [float(getattr(losses, figure)[0]) for figure in FIGURES]
        return found


def column(figures: Sequence[Figures], text: str, name: str) -> np.ndarray:
    """One figure of one method over the prompts, `[prompt]`."""
    return np.array([each[text][FIGURES.index(name)] for each in figures])
