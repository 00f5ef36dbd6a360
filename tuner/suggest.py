"""The alpha regressor: which half-life suits an input of this length at this budget.

Its data cost nothing extra: the engine holds each half-life of every sample. The loss is fitted as a cubic surface over
(half-life, length, budget), and the suggestion is the surface's minimum. It is judged by regret on held-out inputs: how
much loss its choice costs over the best half-life of each input, against the best constant. If it does not beat the
constant, the constant is exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from tuner.engine import HALF_LIVES, Engine
from tuner.evidence import Interval, paired_interval

FEATURES = (
    "log2_half_life",
    "log2_half_life_over_tokens",
    "log2_tokens",
    "log2_budget_tokens",
    "budget_fraction",
)
BUDGET_SCALES = (1.0, 0.5, 0.25)
"""Shares of the chosen policy's budget at which the half-lives are compared: where the cache is ample, all do well."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class LossTable:
    """Loss of every half-life on every input: ``loss`` [input, half_life], ``tokens`` and ``fraction`` [input]."""

    tokens: np.ndarray
    fraction: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class AlphaModel:
    """What is exported: plain numbers, and how they did. ``regret_*`` are nats per token over the per-input oracle."""

    kind: str
    constant_half_life: float
    tokens_range: tuple[int, int]
    fraction: float
    surface: dict[str, list[Any]] | None
    regret_constant: float
    regret_model: float
    gain: Interval
    n_held_out: int
    reason: str

    def suggest(self, tokens: int) -> tuple[float, str]:
        """Half-life for an input of ``tokens`` at the tuned budget, and a remark where it is not the surface's."""
        low, high = self.tokens_range
        if self.surface is None:
            return self.constant_half_life, self.reason
        if not low <= tokens <= high:
            reach = f"the {low} to {high} that the regressor was fitted on"
            return self.constant_half_life, f"{tokens} tokens lie outside {reach}, so this is the best constant"
        losses = _surface_values(self.surface, _features(np.array([tokens]), np.array([self.fraction])))
        return HALF_LIVES[int(losses[0].argmin())], ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinity is written "inf"."""
        return {
            "kind": self.kind,
            "constant_half_life": _text(self.constant_half_life),
            "constant_alpha": LayerPolicy(self.constant_half_life).alpha,
            "tokens_range": list(self.tokens_range),
            "budget_fraction": self.fraction,
            "features": list(FEATURES),
            "half_lives": [_text(h) for h in HALF_LIVES],
            "surface": self.surface,
            "regret_nats_per_token": {
                "constant": self.regret_constant,
                "regressor": self.regret_model,
                "constant_minus_regressor": self.gain.to_list(),
                "held_out_inputs": self.n_held_out,
            },
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AlphaModel:
        """Read what ``to_dict`` wrote."""
        regret = data["regret_nats_per_token"]
        return cls(
            data["kind"], float(data["constant_half_life"]), tuple(data["tokens_range"]), data["budget_fraction"],
            data["surface"], regret["constant"], regret["regressor"], Interval(*regret["constant_minus_regressor"]),
            regret["held_out_inputs"], data["reason"],
        )  # fmt: skip


def loss_table(engine: Engine, policy: Policy, half_lives: Sequence[float] = HALF_LIVES) -> LossTable:
    """NLL of ``policy`` with each half-life in all its layers, at the budgets of ``BUDGET_SCALES``."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    rows = []
    for scale in BUDGET_SCALES:
        columns = []
        for half_life in half_lives:
            losses = engine.evaluate(_with_half_life(policy, half_life, scale))
            columns.append(losses.nll)
        rows.append(LossTable(tokens, losses.cache_fraction, np.stack(columns, 1)))
    return LossTable(
        np.concatenate([row.tokens for row in rows]),
        np.concatenate([row.fraction for row in rows]),
        np.concatenate([row.loss for row in rows]),
    )


def _with_half_life(policy: Policy, half_life: float, scale: float) -> Policy:
    layers = []
    for layer in policy.layers:
        budget = layer.budget if layer.budget is not None else 1.0
        scaled = max(0.001, budget * scale) if isinstance(budget, float) else budget
        layers.append(LayerPolicy(half_life, scaled, layer.recent, layer.sink))
    return Policy(tuple(layers))


def fit(train: LossTable, held_out: LossTable, fraction: float, seed: int) -> tuple[AlphaModel, Pipeline]:
    """Fit on ``train``, judge on ``held_out``. ``fraction``: the tuned policy's share of the cache."""
    constant = int(train.loss.mean(0).argmin())
    ridge = min(RIDGES, key=lambda strength: _cross_validated_regret(train, strength, seed))
    pipeline = _fit_surface(train, ridge)
    surface = _plain(pipeline)
    picks = _surface_values(surface, _features(held_out.tokens, held_out.fraction)).argmin(1)
    oracle = held_out.loss.min(1)
    of_model = held_out.loss[np.arange(len(picks)), picks] - oracle
    of_constant = held_out.loss[:, constant] - oracle
    # An input appears once per budget; the bootstrap must resample inputs, not rows.
    per_input = (of_constant - of_model).reshape(len(BUDGET_SCALES), -1).mean(0)
    gain = paired_interval(per_input, seed)
    better = gain.low > 0
    regrets = f"{of_constant.mean():.4f} for the constant, {of_model.mean():.4f} for the regressor, nats per token"
    beaten = f"the regressor does not beat the best constant on {len(per_input)} held-out inputs (regret {regrets})"
    model = AlphaModel(
        kind="cubic surface" if better else "constant",
        constant_half_life=HALF_LIVES[constant],
        tokens_range=(int(train.tokens.min()), int(train.tokens.max())),
        fraction=fraction,
        surface=surface if better else None,
        regret_constant=float(of_constant.mean()),
        regret_model=float(of_model.mean()),
        gain=gain,
        n_held_out=len(per_input),
        reason="" if better else f"{beaten}, so the constant is used",
    )
    return model, pipeline


def _features(tokens: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """``[input * half_life, feature]``: every half-life of the bank for every input. Infinity counts as 4 lengths."""
    n = np.repeat(tokens.astype(float), len(HALF_LIVES))
    share = np.repeat(fraction, len(HALF_LIVES))
    bank = np.tile(np.array(HALF_LIVES), len(tokens))
    memory = np.log2(1 + np.minimum(bank, 4 * n))
    return np.stack([memory, memory - np.log2(n), np.log2(n), np.log2(np.maximum(share * n, 1)), share], 1)


def _relative(table: LossTable) -> np.ndarray:
    """[input * half_life]: the loss over the input's mean, so that hard inputs do not drown the half-life's effect."""
    return (table.loss - table.loss.mean(1, keepdims=True)).ravel()


def _fit_surface(table: LossTable, strength: float) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge(strength))
    return pipeline.fit(_features(table.tokens, table.fraction), _relative(table))


def _cross_validated_regret(table: LossTable, strength: float, seed: int) -> float:
    rows_per_scale = len(table.tokens) // len(BUDGET_SCALES)
    regret = 0.0
    for fit_inputs, test_inputs in KFold(4, shuffle=True, random_state=seed).split(np.arange(rows_per_scale)):
        fit_rows, test_rows = (
            np.concatenate([inputs + scale * rows_per_scale for scale in range(len(BUDGET_SCALES))])
            for inputs in (fit_inputs, test_inputs)
        )
        pipeline = _fit_surface(_take(table, fit_rows), strength)
        test = _take(table, test_rows)
        values = pipeline.predict(_features(test.tokens, test.fraction)).reshape(test.loss.shape)
        regret += float((test.loss[np.arange(len(test_rows)), values.argmin(1)] - test.loss.min(1)).sum())
    return regret


def _take(table: LossTable, rows: np.ndarray) -> LossTable:
    return LossTable(table.tokens[rows], table.fraction[rows], table.loss[rows])


def _plain(pipeline: Pipeline) -> dict[str, list[Any]]:
    scaler, polynomial, ridge = (step for _, step in pipeline.steps)
    return {
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
        "powers": polynomial.powers_.tolist(),
        "coefficients": ridge.coef_.tolist(),
    }


def _surface_values(surface: dict[str, list[Any]], features: np.ndarray) -> np.ndarray:
    """[input, half_life]: the fitted relative loss, from plain numbers alone."""
    scaled = (features - np.array(surface["mean"])) / np.array(surface["scale"])
    terms = np.prod(scaled[:, None, :] ** np.array(surface["powers"])[None], axis=2)  # [row, term]
    return (terms @ np.array(surface["coefficients"])).reshape(-1, len(HALF_LIVES))


def _text(half_life: float) -> float | str:
    return "inf" if math.isinf(half_life) else half_life
