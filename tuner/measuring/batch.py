"""What the engine holds of a batch of prompts, and what a policy picks from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from a2sf_core.observe import PromptLayer
from a2sf_core.rules.base import ScoreRule
from a2sf_core.selection import order_by_score
from tuner.measuring.losses import JudgedText


@dataclass(frozen=True)
class StoredLayer:
    """What one layer holds of a batch of prompts: keys and values `[prompt, kv_head, key, dim]`, the token orders
    `[rule, prompt, kv_head, key]` (int16 where that suffices), one per rule of the bank, the attention that rules are
    learned from, float32 `[half_life, prompt, kv_head, key]`, if there are any to be, and what tokens are worth in nats
    by the layer's own rule, float32 `[1, prompt, kv_head, key]`, if it has one that compares."""

    keys: torch.Tensor
    values: torch.Tensor
    orders: torch.Tensor
    sums: torch.Tensor
    worth: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order of the fields."""
        return [self.keys, self.values, self.orders, self.sums, self.worth]


@dataclass(frozen=True)
class Places:
    """The device of what the model is given and gives, and that of each layer."""

    main: torch.device
    layers: tuple[torch.device, ...]

    @property
    def on_host(self) -> Places:
        """As many layers, all in host memory."""
        host = torch.device("cpu")
        return Places(host, (host,) * len(self.layers))


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, left-padded to one length, read once, with everything a trial needs.

    samples: indices into the engine's samples. n_tokens: `[batch]`. mask and prompts: `[batch, key]`, bool and
    int64. layers: what is held of the prompts, each once. held: int64 `[batch]`, which of them is a sample's.
    first_logits: `[batch, vocab]`, which predict the first token that follows. questions and question_valid:
    `[batch, token]`, int64 and bool, what is read over the kept tokens before any text; empty where prompts hold the
    questions. texts: the reference answers, and then what the full cache writes, where that is known and differs from
    them.
    """

    samples: list[int]
    n_tokens: torch.Tensor
    mask: torch.Tensor
    prompts: torch.Tensor
    layers: list[StoredLayer]
    held: torch.Tensor
    first_logits: torch.Tensor
    questions: torch.Tensor
    question_valid: torch.Tensor
    texts: tuple[JudgedText, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt that the layers hold."""
        found = dict(zip(self.held.tolist(), self.n_tokens.tolist(), strict=True))
        return [found[prompt] for prompt in range(len(found))]

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

    def lighter(self) -> PromptBatch:
        """The same without what can be made again from the rest, for some time in every trial."""
        return replace(self, texts=tuple(replace(text, full=text.full.lighter()) for text in self.texts))

    @property
    def places(self) -> Places:
        """Where its tensors are now."""
        return Places(self.mask.device, tuple(layer.keys.device for layer in self.layers))

    def to(self, places: Places) -> PromptBatch:
        """The same batch with its tensors at `places`."""
        own: dict[str, Any] = {
            field.name: value.to(places.main)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        layers = [
            StoredLayer(*(tensor.to(device) for tensor in layer.tensors()))
            for device, layer in zip(places.layers, self.layers, strict=True)
        ]
        return replace(self, **own, layers=layers, texts=tuple(text.to(places.main) for text in self.texts))


class LayerBuilder:
    """Puts one layer of several prompts, read one after the other, into one left-padded `StoredLayer`.

    Everything is written in place: besides what is stored, only the prompt in hand needs memory.
    """

    def __init__(self, first: PromptLayer, mask: torch.Tensor, learned_from: Sequence[int] = ()) -> None:
        """Room for prompts like `first` under `mask` `[batch, key]`; scores at the places `learned_from` are held."""
        rows, width = mask.shape
        self._learned_from = list(learned_from)
        heads = first.keys.shape[1]
        small = width <= torch.iinfo(torch.int16).max
        self.layer = StoredLayer(
            first.keys.new_zeros(rows, heads, width, first.keys.shape[-1]),
            first.values.new_zeros(rows, heads, width, first.values.shape[-1]),
            first.scores.new_zeros(len(first.scores), rows, heads, width, dtype=torch.int16 if small else torch.int32),
            first.scores.new_zeros(len(learned_from), rows, heads, width),
            first.worth.new_zeros(len(first.worth), rows, heads, width),
        )

    def put(self, row: int, prompt: PromptLayer) -> None:
        """Take in `prompt`, a batch of one without padding, as row `row`."""
        missing = self.layer.keys.shape[2] - prompt.keys.shape[2]
        self.layer.keys[row, :, missing:] = prompt.keys[0]
        self.layer.values[row, :, missing:] = prompt.values[0]
        self.layer.orders[:, row] = _order(prompt.scores[:, 0], missing).to(self.layer.orders.dtype)
        self.layer.sums[:, row, :, missing:] = prompt.scores[self._learned_from, 0]
        self.layer.worth[:, row, :, missing:] = prompt.worth[:, 0]


def _order(scores: torch.Tensor, missing: int) -> torch.Tensor:
    """Order `[rule, kv_head, key]` of slots by `scores` `[rule, kv_head, n]`, the first `missing` slots being padding.

    These come last in every order, so that it stays a permutation.
    """
    n = scores.shape[-1]
    order = order_by_score(scores, torch.ones(n, dtype=torch.bool, device=scores.device)) + missing
    padding = torch.arange(missing, device=scores.device).expand(*order.shape[:-1], missing)
    return torch.cat([order, padding], -1)


def with_rules(batch: PromptBatch, own: Sequence[ScoreRule], half_lives: Sequence[float]) -> PromptBatch:
    """`batch` with the orders of one rule more for each layer, if there are any; the sums held, of `half_lives`, go."""
    if not own:
        return replace(batch, layers=[replace(layer, sums=layer.sums[:0].clone()) for layer in batch.layers])
    layers = []
    for rule, layer in zip(own, batch.layers, strict=True):
        orders, worth = [], torch.zeros_like(layer.orders[: int(rule.compares)], dtype=torch.float32)
        for prompt, n in enumerate(batch.lengths):
            held = sums_of(layer, prompt, n, half_lives)
            orders.append(_order(rule.rank(held), layer.keys.shape[2] - n))
            if rule.compares:
                worth[:, prompt, :, -n:] = rule.worth(held)
        new = torch.stack(orders, 1).to(layer.orders.dtype)  # [1, prompt, kv_head, key]
        orders_of_all = torch.cat([layer.orders, new])
        layers.append(replace(layer, orders=orders_of_all, sums=layer.sums[:0].clone(), worth=worth))
    return replace(batch, layers=layers)


def sums_of(layer: StoredLayer, prompt: int, n: int, half_lives: Sequence[float]) -> Any:
    """What a learned rule asks of a prompt of `n` tokens, from the sums of `half_lives` that are held."""
    place = slice(prompt, prompt + 1), slice(None), slice(-n, None)
    return _Sums(layer.sums[(slice(None), *place)], layer.values[place], half_lives)


@dataclass(frozen=True)
class _Sums:
    """What a learned rule asks for, of all that `Held` could tell.

    sums: `[half_life, 1, kv_head, n]`. values: `[1, kv_head, n, dim]`.
    """

    sums: torch.Tensor
    values: torch.Tensor
    half_lives: Sequence[float]

    @property
    def positions(self) -> torch.Tensor:
        return torch.arange(self.sums.shape[-1], device=self.sums.device).expand(self.sums.shape[1:])

    def accumulated(self, half_life: float) -> torch.Tensor:
        return self.sums[list(self.half_lives).index(half_life)]


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
