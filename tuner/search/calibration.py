"""What the score of a learned rule is worth in nats, so that tokens of different KV heads compare.

A head's score says which of its tokens matter more, not how much they matter. An isotonic regression, one for every KV
head, says that from the prompts that the rule was learned from: the mean of what losing a token costs, among tokens of
a score. Then the tokens of all heads can compete for one total (`a2sf_core.dealing.dealt_out`). docs/heads.md
says what that is worth, and that the regression which ranks the tokens cannot say it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from a2sf_core.rules.learned import Learned
from tuner.measuring.batch import PromptBatch, sums_of
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder

Nats = Mapping[int, np.ndarray]
"""By sample, logarithms of what losing each of its last tokens costs: float16 `[layer, kv_head, token]`."""
_FROM, _TO, _KNOTS = 0.3, 0.999, 6
"""Shares of a head's tokens between which the curve is drawn, and its points: as good as the isotonic steps."""
_BIN = 0.125
"""Scores nearer than that are one to the regression."""
_LEAST = 1e-12
_DIGITS = 2


def in_short(losses: Sequence[Tensor]) -> np.ndarray:
    """`Nats` of one sample, from nats `[kv_head, token]` per layer."""
    return torch.stack([(each.cpu() + _LEAST).log().half() for each in losses]).numpy()


def with_worth(engine: Engine, rules: Sequence[Learned], nats: Nats) -> list[Learned]:
    """`rules`, one per layer, with what their scores are worth on the samples of `nats`.

    `engine` holds those, and the sums of the rules' half-lives.
    """
    found = engine.everywhere(_points, tuple(rules), nats)
    points = {row: each for own in found for row, each in own.items()}
    return [
        _with_curves(rule, [[points[row][layer][head] for row in sorted(points)] for head in range(len(rule.powers))])
        for layer, rule in enumerate(rules)
    ]


def _points(holder: Holder, rules: Sequence[Learned], nats: Nats) -> dict[int, list[list[np.ndarray]]]:
    """By sample, layer and KV head: `[point, 3]`, a score, the mean cost of tokens of about that, and their number."""
    found = {}
    for _, block in holder.blocks():
        for batch in block:
            for place, row in enumerate(batch.samples):
                if row in nats:
                    found[row] = [
                        _of_layer(batch, place, layer, rule, nats[row][layer]) for layer, rule in enumerate(rules)
                    ]
    return found


def _of_layer(batch: PromptBatch, place: int, layer: int, rule: Learned, nats: np.ndarray) -> list[np.ndarray]:
    held = sums_of(batch.layers[layer], int(batch.held[place]), int(batch.n_tokens[place]), rule.half_lives)
    scores = rule.log_product(held)[0].double().cpu().numpy()  # [kv_head, token]
    costs = np.exp(nats.astype(float))  # [kv_head, token]
    return [_in_bins(own, cost) for own, cost in zip(scores[:, -costs.shape[1] :], costs, strict=True)]


def _in_bins(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    _, place = np.unique(np.floor(scores / _BIN), return_inverse=True)  # [token]
    count, *sums = (np.bincount(place, each) for each in (None, scores, costs))
    return np.stack([*(each / count for each in sums), count], 1)


def _with_curves(rule: Learned, points: Sequence[Sequence[np.ndarray]]) -> Learned:
    """`points`: of every KV head and sample."""
    curves = [_curve(np.concatenate(own)) for own in points]
    return replace(rule, scores=tuple(ends for ends, _ in curves), log_nats=tuple(values for _, values in curves))


def _curve(points: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from sklearn.isotonic import IsotonicRegression

    scores, costs, count = points[np.argsort(points[:, 0])].T
    share = count.cumsum() / count.sum()
    low, high = scores[np.searchsorted(share, (_FROM, _TO)).clip(max=len(scores) - 1)].round(_DIGITS)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, costs, sample_weight=count)
    values = np.log(np.maximum(fitted.predict(np.linspace(low, high, _KNOTS)), _LEAST)).round(_DIGITS)
    return (float(low), float(high)), tuple(values.tolist())
