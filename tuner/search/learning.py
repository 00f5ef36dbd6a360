"""Learning to forget: a curve for every KV head, fitted to what the tokens of a text turned out to be worth.

A2SF weighs the attention of a query by alpha^age. While a prompt is read, sums for many half-lives are gathered anyway,
and a power for each of them makes a curve of any shape (`a2sf_core.rules.learned`). What a token was worth is known
afterwards, from both texts that follow the prompt: in nats, where gradients can be trusted
(`tuner.measuring.token_losses`), or else what losing it alone would have done to the attention's output, p / (1 - p)
|o - v|, summed over the text. A ridge regression from logarithms to logarithms, one for every KV head, on some of the
search prompts; the others say whether it beats a single half-life.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from a2sf_core.rules.learned import FLOOR, Learned
from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder
from tuner.measuring.memory import enough_memory
from tuner.measuring.token_losses import draws, odds, paid, token_losses
from tuner.search.calibration import Nats, in_short, with_worth
from tuner.search.fisher import Fisher
from tuner.search.profile import Profile
from tuner.watch import Count, Progress

LEARNED_FROM = (1.0, 4.0, 16.0, 64.0, 256.0, float("inf"))
"""Half-lives in tokens. All 24 of the bank fit hardly better (docs/heads.md)."""
_RIDGE = 0.01
"""Of inputs with unit variance."""
_FIRST = 4
"""Tokens left out: every head looks at them, whatever they say, and policies keep them anyway."""
_LEAST_WORTH, _LEAST_NATS = 1e-5, 1e-3
"""Added to what a token is worth before the logarithm is taken; where it is in nats, over the head's mean."""
_NONE = 1e-12
"""Instead of nothing, where no token of a head is worth anything."""
_DIGITS = 3


def learned_rules(
    engine: Engine, rows: Collection[int], progress: Progress, drawn: int | None = None
) -> tuple[Learned, ...]:
    """One rule per layer, fitted on the samples `rows` of an engine that holds the sums of `LEARNED_FROM`.

    Args:
        progress: called with (blocks done, blocks in all).
        drawn: learn from what tokens are worth in nats, for a model that `gives_gradients`: the seed of what is drawn
            from its predictions.
    """
    count = Count(progress, engine.n_blocks)
    progress(0, engine.n_blocks)
    found = engine.everywhere(_sums, set(rows), drawn, told=count.one)
    by_block = {index: fit for each in found for index, (fit, _) in each.items()}
    fit = _Fit.total([by_block[index] for index in range(engine.n_blocks)])
    powers = fit.solve().clip(-20, 20).round(_DIGITS) + 0.0  # [layer, kv_head, signal], no -0.0
    rules = [Learned(LEARNED_FROM, _plain(layer[:, :-1]), tuple(layer[:, -1].tolist())) for layer in powers]
    if drawn is not None:
        nats = {row: each for own in found for _, by_row in own.values() for row, each in by_row.items()}
        rules = with_worth(engine, rules, nats)
    return tuple(rules)


def drawn_for(profile: Profile | None, seed: int) -> int | None:
    """`seed`, to learn in nats, where gradients have proven good on this model: where budgets from them have won."""
    return seed if isinstance(profile, Fisher) else None


def _sums(holder: Holder, rows: Collection[int], drawn: int | None) -> dict[int, tuple[_Fit, Nats]]:
    """What the blocks that are held here say, by block: so that it is added up in one order, whoever holds them."""
    found: dict[int, tuple[_Fit, Nats]] = {}
    for index, block in holder.blocks():
        fit = _Fit(len(block[0].layers), block[0].layers[0].keys.shape[1], len(LEARNED_FROM) + 1)
        nats: dict[int, np.ndarray] = {}
        with enough_memory("looking at what tokens are worth"), answering(holder.model):
            for batch in block:
                for place, worth, losses in _worth(holder, batch, rows, drawn):
                    _add(fit, batch, place, worth)
                    if losses:
                        nats[batch.samples[place]] = in_short([each[:, _FIRST:] for each in losses])
        found[index] = fit, nats
        holder.told()
    return found


def _worth(
    holder: Holder, batch: PromptBatch, rows: Collection[int], drawn: int | None
) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """Of each sample of `batch` that is in `rows` its place, the logarithms of what its tokens turned out to be worth,
    and that in nats, where it is: float32 `[kv_head, token]` per layer."""
    lengths = batch.n_tokens.tolist()
    places = [place for place, row in enumerate(batch.samples) if row in rows and lengths[place] > _FIRST + 1]
    moved = worth_to_texts(holder, batch) if places and drawn is None else []
    for place in places:
        if drawn is None:
            yield place, [(layer[place, :, : lengths[place]] + _LEAST_WORTH).log() for layer in moved], []
        else:
            losses = token_losses(holder.reader, batch, place, draws(drawn, batch.samples[place]))
            # Nats are the squares of movements, so their roots are what movements are compared by.
            roots = [nats.sqrt() for nats in losses]
            worth = [(root + _LEAST_NATS * root.mean(-1, keepdim=True) + _NONE).log() for root in roots]
            yield place, worth, losses


def worth_to_texts(holder: Holder, batch: PromptBatch) -> list[Tensor]:
    """What each token of the prompts was worth to the questions and texts that follow, mean over the texts.

    To be called inside `answering(model)`. One tensor per layer, float32 `[batch, kv_head, key]`; the tokens of a
    prompt come first, and what stands behind them means nothing.
    """
    n_keys = batch.mask.shape[1]
    worth = [torch.zeros(len(batch.samples), layer.keys.shape[1], n_keys, device=layer.keys.device)
             for layer in batch.layers]  # fmt: skip

    def watch(
        index: int, counts: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor, _: Tensor
    ) -> None:
        lost = what_losing_costs(query, key, value, scale, bias)[..., :n_keys]
        group = lost.shape[2] // counts.shape[1]
        counts = counts.to(lost.device)
        worth[index].add_(lost.masked_fill(~counts.repeat(1, group)[:, None, :, None], 0).sum(2) / len(batch.texts))

    for text in batch.texts:
        holder.reader.follow_each(batch, holder.reader.all_of(batch), [(text.ids, text.valid)], watch)
    return worth


def what_losing_costs(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor) -> Tensor:
    """How far the attention's output would move without a key: p / (1 - p) |o - v|.

    Args:
        query: `[batch, kv_head, query, dim]`.
        key, value: `[batch, kv_head, key, dim]`.
        scale: factor of the dot product.
        bias: added to it, `[batch, kv_head or 1, query, key]`.

    Returns:
        float32 `[batch, kv_head, query, key]`.
    """
    values = value.float()
    probs = paid(query, key, scale, bias)  # [batch, kv_head, query, key]
    output = probs @ values  # [batch, kv_head, query, dim]
    squares = output.pow(2).sum(-1)[..., None] + values.pow(2).sum(-1)[:, :, None]  # [batch, kv_head, query, key]
    distance = (squares - 2 * output @ values.transpose(-1, -2)).clamp(min=0).sqrt()
    return odds(probs) * distance


class _Fit:
    """Ridge regressions, one for each KV head, from sums over prompts that need not be held together."""

    def __init__(self, n_layers: int, n_heads: int, n_signals: int) -> None:
        self._products = np.zeros((n_layers, n_heads, n_signals, n_signals))
        self._with_target = np.zeros((n_layers, n_heads, n_signals))

    @classmethod
    def total(cls, parts: Sequence[_Fit]) -> _Fit:
        """All of `parts`, added up in their order."""
        found = cls(*parts[0]._with_target.shape)
        for part in parts:
            found._products += part._products
            found._with_target += part._with_target
        return found

    def add(self, layer: int, signals: Tensor, target: Tensor) -> None:
        """One prompt: `[kv_head, signal, token]` and `[kv_head, token]`, each relative to its mean over the tokens, as
        only the order inside a prompt counts."""
        signals = (signals - signals.mean(-1, keepdim=True)).double()
        target = (target - target.mean(-1, keepdim=True)).double()
        self._products[layer] += (signals @ signals.transpose(-1, -2) / signals.shape[-1]).cpu().numpy()
        self._with_target[layer] += (signals @ target[..., None] / signals.shape[-1])[..., 0].cpu().numpy()

    def solve(self) -> np.ndarray:
        """`[layer, kv_head, signal]`."""
        size = np.sqrt(np.maximum(np.einsum("lhss->lhs", self._products), 1e-12))  # [layer, kv_head, signal]
        products = self._products / size[..., None] / size[..., None, :]
        ridge = _RIDGE * np.eye(size.shape[-1])
        found: np.ndarray = np.linalg.solve(products + ridge, (self._with_target / size)[..., None])[..., 0] / size
        return found


def _add(fit: _Fit, batch: PromptBatch, place: int, worth: Sequence[Tensor]) -> None:
    n, prompt = int(batch.n_tokens[place]), int(batch.held[place])
    for index, (layer, target) in enumerate(zip(batch.layers, worth, strict=True)):
        sums = (layer.sums[:, prompt, :, -n:] + FLOOR).log()  # [half_life, kv_head, n]
        sizes = (layer.values[prompt, :, -n:].float().norm(dim=-1) + FLOOR).log()  # [kv_head, n]
        signals = torch.cat([sums, sizes[None]]).transpose(0, 1)  # [kv_head, signal, n]
        fit.add(index, signals[..., _FIRST:], target[:, _FIRST:])


def _plain(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())
