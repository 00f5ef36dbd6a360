"""A model beside the prompts that it has read: here policies are measured, block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from a2sf_core.placement import joined, layer_devices, mean_of_processes, n_processes
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch, with_rules
from tuner.measuring.blocks import BlockReader, Told, nobody
from tuner.measuring.keeping import keep_masks, kept_digest
from tuner.measuring.losses import Losses, TokenLosses, losses_of
from tuner.measuring.memory import enough_memory, room
from tuner.measuring.own_text import OwnTexts
from tuner.measuring.portion import Portion
from tuner.measuring.reading import Reader
from tuner.measuring.store import Block, Store
from tuner.measuring.texts import Text


class Holder:
    """Reads the prompts of `portion` with `model` and measures what policies cost on them.

    Args:
        model: a transformers decoder in eval mode; it stays on its device.
        portion: what to hold.
        told: called for every prompt that was read, and for every text that the full cache wrote.

    Raises:
        A2SFError: if memory runs out.

    Attributes:
        reader: what runs the model.
        portion: what is held, the rules that were learned meanwhile included.
        passes: how often a block was really run under a policy.
        told: called as long work goes on; whoever asks for some sets it.
    """

    def __init__(self, model: Any, portion: Portion, told: Told = nobody) -> None:
        self.model, self.portion = model, portion
        self.told: Told = nobody
        self.passes = 0
        self.reader = Reader(model, portion.samples, portion.bank, portion.learn_from)
        self._own = OwnTexts(self.reader, portion.samples, portion.ends) if portion.ends else None
        self._indices = list(portion.blocks)
        self._by_kept_tokens: dict[tuple[int, bytes], Losses] = {}
        self._blocks = BlockReader(self.reader, [portion.blocks[index] for index in self._indices], self._own, told)
        self._store = Store(self._blocks.read, len(self._indices), room(portion.memory, layer_devices(model)))
        self._blocks.told = nobody  # a prompt that is read again is no news

    @property
    def recomputes(self) -> bool:
        """True if some prompts are read again whenever they are asked for."""
        return self._store.recomputes

    @property
    def held(self) -> int:
        """Bytes of all that is held."""
        return self._store.held

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token over all layers, uncut, of all processes that share the model."""
        return self._blocks.bytes_per_token * n_processes(self.model)

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """Know one rule more for each layer, of the half-lives whose sums were held; these go."""
        half_lives = self.reader.learn(own)
        self.portion = self.portion.learned(own)
        self._store.change(lambda block: [with_rules(batch, own, half_lives) for batch in block])

    def lighten(self) -> None:
        """Hold nothing that can be made again from the rest."""
        self._store.lighten()

    def load(self, index: int) -> Block:
        """Block `index` on the devices of the model.

        Raises:
            A2SFError: if memory runs out.
        """
        with enough_memory(f"reading {len(self.portion.rows(index))} prompts"):
            return self._store.load(self._indices.index(index))

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """All blocks with their indices, as they are held."""
        return ((index, self.load(index)) for index in self._indices)

    def batches(
        self, policy: Policy, rows: Collection[int] | None = None
    ) -> Iterator[tuple[PromptBatch, list[torch.Tensor]]]:
        """Every batch that holds one of the samples `rows` (None: all), with what `policy` keeps of it.

        That is bool `[batch, kv_head, key]` per layer.
        """
        wanted = None if rows is None else set(rows)
        for index in self._indices:
            if wanted is not None and wanted.isdisjoint(self.portion.rows(index)):
                continue
            for batch in self.load(index):
                if wanted is None or not wanted.isdisjoint(batch.samples):
                    yield batch, keep_masks(batch, policy, self.reader.bank)

    def own_texts(self) -> dict[int, Text]:
        """What the full cache writes, by sample; nothing where that is not held."""
        if self._own is None:
            return {}
        for index in self._indices[self._store.n_stored :]:
            if not self._own.known.keys() >= set(self.portion.rows(index)):
                self.load(index)  # what no memory was left for was not read yet
        return self._own.known

    def measure(self, index: int, policies: Sequence[Policy]) -> tuple[list[Losses], int]:
        """Losses of each of `policies` on the samples of block `index`, and how often the model ran for them.

        Policies that keep the same tokens are computed once.
        """
        before = self.passes
        found: dict[Policy, Losses] = {}
        with enough_memory(f"measuring on {len(self.portion.rows(index))} prompts"):
            block = self.load(index)
            with answering(self.model):  # once for all: it costs a walk over the model's modules
                for policy in filter(self.portion.gathers, policies):
                    found[policy] = self._gathered(index, block, policy)
            for policy in policies:
                if policy not in found:
                    found[policy] = self._attached(block, policy)
                    self.passes += 1
        return [found[policy] for policy in policies], self.passes - before

    def measure_directly(self, policy: Policy) -> dict[int, Losses]:
        """Losses by block from really running the attached model."""
        return {index: self._attached(self.load(index), policy) for index in self._indices}

    def _gathered(self, index: int, block: Block, policy: Policy) -> Losses:
        keep = [keep_masks(batch, policy, self.reader.bank) for batch in block]
        key = index, joined(kept_digest(keep), self.model)
        if key not in self._by_kept_tokens:
            parts = []
            for batch, masks in zip(block, keep, strict=True):
                logits = self.reader.follow_each(batch, masks, [(text.ids, text.valid) for text in batch.texts])
                parts.append(self._losses(batch, logits, [mask.sum(-1) for mask in masks]))
            self._by_kept_tokens[key] = _join(parts)
            self.passes += 1
        return self._by_kept_tokens[key]

    def _attached(self, block: Block, policy: Policy) -> Losses:
        parts = []
        for batch in block:
            runs = [self.reader.follow_attached(batch, policy, text.ids, text.valid) for text in batch.texts]
            parts.append(self._losses(batch, [logits for logits, _ in runs], runs[0][1]))
        return _join(parts)

    def _losses(self, batch: PromptBatch, logits: Sequence[torch.Tensor], kept: list[torch.Tensor]) -> Losses:
        """From logits `[batch, token, vocab]` along each text and, per layer, how many are kept `[batch, kv_head]`."""
        n_tokens = batch.n_tokens
        shares = torch.stack(
            [count.to(n_tokens.device).double().mean(-1) / n_tokens for count in kept]
        )  # [layer, batch]
        share = mean_of_processes(shares.mean(0), self.model).cpu().numpy()  # [batch]
        texts = zip(logits, batch.texts, strict=True)
        found = [TokenLosses.of(each, text, self.reader.head) for each, text in texts]
        return losses_of(found[0], found[1] if len(found) > 1 else None, share)


def _join(parts: list[Losses]) -> Losses:
    return Losses.join(parts, np.arange(sum(len(part.nll) for part in parts)))
