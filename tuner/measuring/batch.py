"""What the engine holds of a batch of prompts, and what a policy picks from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.observe import PromptLayer
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.selection import keep_from_order, order_by_score
from tuner.measuring.bank import place_in
from tuner.measuring.losses import JudgedText


@dataclass(frozen=True)
class StoredLayer:
    """What one layer holds of a batch of prompts: keys and values `[batch, kv_head, key, dim]` and the token orders
    `[rule, batch, kv_head, key]` (int16 where that suffices), one per rule of the bank."""

    keys: torch.Tensor
    values: torch.Tensor
    orders: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order of the fields."""
        return [self.keys, self.values, self.orders]


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, left-padded to one length, read once, with everything a trial needs.

    samples: indices into the engine's samples. n_tokens: `[batch]`. mask and prompts: `[batch, key]`, bool and
    int64. first_logits: `[batch, vocab]`, which predict the first token of any text that follows. texts: the reference
    answers, and then what the full cache writes, where that is known and differs from them.
    """

    samples: list[int]
    n_tokens: torch.Tensor
    mask: torch.Tensor
    prompts: torch.Tensor
    layers: list[StoredLayer]
    first_logits: torch.Tensor
    texts: tuple[JudgedText, ...] = ()

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values over all layers, uncut."""
        held = [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in held)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        own = [value for field in fields(self) if isinstance(value := getattr(self, field.name), torch.Tensor)]
        held = [*own, *(tensor for layer in self.layers for tensor in layer.tensors())]
        held += [tensor for text in self.texts for tensor in text.tensors()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch with its tensors on `device`."""
        own: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        layers = [StoredLayer(*(tensor.to(device) for tensor in layer.tensors())) for layer in self.layers]
        return replace(self, **own, layers=layers, texts=tuple(text.to(device) for text in self.texts))


def keep_masks(batch: PromptBatch, policy: Policy, bank: Sequence[ScoreRule]) -> list[torch.Tensor]:
    """Per layer which slots `policy` keeps: bool `[batch, kv_head, key]`. The orders held are those of `bank`."""
    return [_keep(layer, own, bank, batch.n_tokens) for layer, own in zip(batch.layers, policy.layers, strict=True)]


def _keep(layer: StoredLayer, policy: LayerPolicy, bank: Sequence[ScoreRule], n_tokens: torch.Tensor) -> torch.Tensor:
    budgets = [policy.head_budget_tokens(n) for n in n_tokens.tolist()]
    recents = [[policy.recent_tokens(budget) for budget in row] for row in budgets]
    # Both [batch, kv_head], or [batch, 1] where all heads have one budget.
    budget, recent = (torch.tensor(rows, device=n_tokens.device) for rows in (budgets, recents))
    order = layer.orders[place_in(bank, policy)].long()  # [batch, kv_head, key]
    return keep_from_order(order, n_tokens[:, None], budget, policy.sink, recent)


class LayerBuilder:
    """Puts one layer of several prompts, read one after the other, into one left-padded `StoredLayer`.

    Everything is written in place: besides what is stored, only the prompt in hand needs memory.
    """

    def __init__(self, first: PromptLayer, mask: torch.Tensor) -> None:
        """Room for prompts like `first` under `mask` `[batch, key]`."""
        rows, width = mask.shape
        heads = first.keys.shape[1]
        small = width <= torch.iinfo(torch.int16).max
        self.layer = StoredLayer(
            first.keys.new_zeros(rows, heads, width, first.keys.shape[-1]),
            first.values.new_zeros(rows, heads, width, first.values.shape[-1]),
            torch.zeros(
                len(first.scores), rows, heads, width, dtype=torch.int16 if small else torch.int32, device=mask.device
            ),
        )

    def put(self, row: int, prompt: PromptLayer) -> None:
        """Take in `prompt`, a batch of one without padding, as row `row`."""
        n, width = prompt.keys.shape[2], self.layer.keys.shape[2]
        missing = width - n
        self.layer.keys[row, :, missing:] = prompt.keys[0]
        self.layer.values[row, :, missing:] = prompt.values[0]
        order = order_by_score(prompt.scores[:, 0], torch.ones(n, dtype=torch.bool, device=prompt.scores.device))
        self.layer.orders[:, row, :, :n] = (order + missing).to(self.layer.orders.dtype)  # [score, kv_head, n]
        # Padding comes last in every order, so that it stays a permutation.
        self.layer.orders[:, row, :, n:] = torch.arange(missing, device=order.device).to(self.layer.orders.dtype)


def pad(rows: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[batch, token]` and which of them are real; zeros on the left (prompts) or right (answers)."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(tokens)
        real[row, place] = True
    return ids.to(device), real.to(device)
