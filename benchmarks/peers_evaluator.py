"""One evaluator for all: what a kept set costs along two texts, read through the engine's own reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from a2sf_core.rules.position import Position
from benchmarks.peers_prompts import Asked
from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch, keep_masks
from tuner.measuring.engine import by_gathering
from tuner.measuring.losses import FullAnswers, JudgedText, TokenLosses
from tuner.measuring.reading import Reader

TEXTS = ("reference", "own")
FIGURES = ("kl", "nll", "changed", "accuracy")
"""Per text, as in `Losses`: KL to the full cache, likelihood of the text, top choice unlike the full cache's, right."""
FULL = "full cache"
Keep = list[Tensor]
"""Per layer: bool `[1, kv_head, key]`."""
Figures = dict[str, Any]
"""`kept` (share of all keys) and, per text, the list of `FIGURES`."""


class OnePrompt:
    """One prompt that was read once, and its texts.

    Args:
        policies: those of ours that will be measured on it: their rules rank its tokens.
        own: what the full cache writes.
    """

    def __init__(self, model: Any, asked: Asked, own: tuple[int, ...], policies: Sequence[Policy]) -> None:
        for policy in policies:
            if not by_gathering(policy):
                raise A2SFError("Peers are compared by kept sets, cut once: the policy's evict must be 'prefill'.")
        rules = dict.fromkeys(layer.ranked_by for policy in policies for layer in policy.layers)
        self._bank = (*rules, *(() if Position() in rules else (Position(),)))
        self._reader = Reader(model, [asked.encoded()], self._bank)
        self.batch: PromptBatch = self._reader.read([0])
        self._n_between = len(asked.between)
        self._texts = {
            name: self._judged([*asked.between, *text]) for name, text in (("reference", asked.reference), ("own", own))
        }
        self.full = self.figures(self._whole())

    def policy_keeps(self, policy: Policy) -> Keep:
        """What one of ours keeps."""
        return keep_masks(self.batch, policy, self._bank)

    def peer_keeps(self, mask: np.ndarray) -> Keep:
        """From bool `[layer, kv_head, key]`."""
        heads = tuple(self.batch.layers[0].keys.shape[1:3])
        if mask.shape != (len(self.batch.layers), *heads):
            raise A2SFError(f"a peer's kept set has the shape {mask.shape}, not {(len(self.batch.layers), *heads)}.")
        return [torch.from_numpy(layer)[None].to(self.batch.mask.device) for layer in mask]

    def logits(self, keep: Keep, text: Sequence[int]) -> Tensor:
        """`[token, vocab]`: what predicts each token of `text`, which begins with the question if it comes after."""
        ids = torch.tensor([list(text)], device=self.batch.mask.device)
        with answering(self._reader.model):
            return self._reader.follow(self.batch, keep, ids, torch.ones_like(ids, dtype=torch.bool))[0]

    def figures(self, keep: Keep) -> Figures:
        """What this kept set costs along both texts; a question behind the cut is read, not judged."""
        found: Figures = {"kept": float(torch.stack([layer.double().mean() for layer in keep]).mean())}
        texts = self._texts.values()
        with answering(self._reader.model):
            read = [(text.ids, torch.ones_like(text.valid)) for text in texts]
            along = self._reader.follow_each(self.batch, keep, read)
        for name, text, logits in zip(self._texts, texts, along, strict=True):
            losses = TokenLosses.of(logits, text)
            found[name] = [float(getattr(losses, figure)[0]) for figure in FIGURES]
        return found

    def _whole(self) -> Keep:
        return [torch.ones_like(layer.keys[..., 0], dtype=torch.bool) for layer in self.batch.layers]

    def _judged(self, ids: Sequence[int]) -> JudgedText:
        """A text with what the full cache says of it, the question left out."""
        logits = self.logits(self._whole(), ids)
        valid = torch.arange(len(ids), device=logits.device)[None] >= self._n_between
        return JudgedText(torch.tensor([list(ids)], device=logits.device), valid, FullAnswers.of(logits[valid[0]]))


def column(figures: Sequence[Figures], text: str, name: str) -> np.ndarray:
    """One figure of one method over the prompts, `[prompt]`."""
    return np.array([each[text][FIGURES.index(name)] for each in figures])
