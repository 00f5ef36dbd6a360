"""What every half-life of the bank costs on every input: the data of the alpha regressor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import interp1d

from a2sf_core.layer_policy import Budget
from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine
from tuner.search.allocation import LEAST_SHARE
from tuner.search.profiles import SHALLOW
from tuner.watch import Count, silent

BUDGET_SCALES = (1.0, 0.5, 0.25)
"""Shares of the tuned budget at which the surface is fitted: where the cache is ample, all half-lives do well."""
DEEP_STEP = 3
"""In a model of more than `SHALLOW` layers looks are dear: every third half-life is measured there, and the last."""


@dataclass(frozen=True)
class LossTable:
    """Loss of every half-life on every input: `loss` [input, half_life], `tokens` and `fraction` [input]."""

    tokens: np.ndarray
    fraction: np.ndarray
    loss: np.ndarray

    def take(self, rows: np.ndarray) -> LossTable:
        """The rows at these places alone, in that order."""
        return LossTable(self.tokens[rows], self.fraction[rows], self.loss[rows])


def loss_table(
    engine: Engine,
    policy: Policy,
    count: Count | None = None,
    scales: Sequence[float] = BUDGET_SCALES,
) -> LossTable:
    """NLL of `policy` with each half-life in all layers, at `scales` of its budgets; rows by scale, then input.

    In a deep model some are measured, and those between lie on the line between their neighbours, as the loss changes
    slowly from one to the next. `count` is told each half-life that is measured, at each scale. Only the first block is
    measured where alpha changes nothing anyway.
    """
    count = count or Count(silent, 1)
    measured = places(engine)
    n_blocks = engine.n_blocks if uses_alpha(policy) else 1
    fractions, losses = [], []
    for scale in scales:
        columns = []
        for place in count.each(measured):
            seen = engine.evaluate_blocks(_with_half_life(policy, HALF_LIVES[place], scale), n_blocks)
            columns.append(seen.losses.nll)
        fractions.append(seen.losses.cache_fraction)
        losses.append(interp1d(measured, np.stack(columns, 1))(range(len(HALF_LIVES))))
    tokens = np.array([len(engine.samples[row].prompt_ids) for row in seen.rows])
    return LossTable(np.tile(tokens, len(scales)), np.concatenate(fractions), np.concatenate(losses))


def places(engine: Engine) -> list[int]:
    """Of the half-lives that are measured, in `HALF_LIVES`."""
    last = len(HALF_LIVES) - 1
    return [*range(0, last, DEEP_STEP if engine.n_layers > SHALLOW else 1), last]


def uses_alpha(policy: Policy) -> bool:
    """False if no layer ranks its tokens by decayed attention: a window votes, positions decide, or nothing is cut."""
    return any(isinstance(layer.ranked_by, Decay) and layer.budget != 1.0 for layer in policy.layers)


def _with_half_life(policy: Policy, half_life: float, scale: float) -> Policy:
    layers = []
    for layer in policy.layers:
        layers.append(replace(layer, rule=Decay(half_life), budget=_scaled(layer.budget, scale)))
    return Policy(tuple(layers))


def _scaled(budget: Budget, scale: float) -> Budget:
    """A share times `scale`; tokens stay as they are."""
    if isinstance(budget, tuple):
        return tuple(max(LEAST_SHARE, share * scale) if isinstance(share, float) else share for share in budget)
    if budget is None:
        return scale
    return max(LEAST_SHARE, budget * scale) if isinstance(budget, float) else budget
