"""The alpha regressor: which half-life suits an input of this length.

Its data cost nothing extra: the engine holds each half-life of every sample. The loss is fitted as a cubic surface
over (half-life, length, budget) on the search split; the suggestion is its minimum at the tuned budget. Whether that
beats the best constant is decided on the select split, and how much it gains is then measured on the report split, by
regret: the loss over the best half-life of each input. If it does not beat the constant, the constant is exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from a2sf_core.layer_policy import Budget, LayerPolicy
from a2sf_core.policy import Policy
from tuner.judging.intervals import Interval, paired_interval
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine, Progress

FEATURES = (
    "log2_half_life",
    "log2_half_life_over_tokens",
    "log2_tokens",
    "log2_budget_tokens",
    "budget_fraction",
)
BUDGET_SCALES = (1.0, 0.5, 0.25)
"""Shares of the tuned budget at which the surface is fitted: where the cache is ample, all half-lives do well."""
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


def loss_table(
    engine: Engine,
    policy: Policy,
    progress: Progress = lambda _done, _total: None,
    scales: Sequence[float] = BUDGET_SCALES,
) -> LossTable:
    """NLL of ``policy`` with each half-life in all layers, at ``scales`` of its budgets; rows by scale, then input."""
    tokens = np.array([len(sample.prompt_ids) for sample in engine.samples])
    fractions, losses = [], []
    for row, scale in enumerate(scales):
        columns = []
        for place, half_life in enumerate(HALF_LIVES):
            found = engine.evaluate(_with_half_life(policy, half_life, scale))
            columns.append(found.nll)
            progress(row * len(HALF_LIVES) + place + 1, len(scales) * len(HALF_LIVES))
        fractions.append(found.cache_fraction)
        losses.append(np.stack(columns, 1))
    return LossTable(np.tile(tokens, len(scales)), np.concatenate(fractions), np.concatenate(losses))


def _with_half_life(policy: Policy, half_life: float, scale: float) -> Policy:
    layers = []
    for layer in policy.layers:
        layers.append(replace(layer, half_life=half_life, budget=_scaled(layer.budget, scale)))
    return Policy(tuple(layers))


def _scaled(budget: Budget, scale: float) -> Budget:
    """A share times ``scale``; tokens stay as they are."""
    if isinstance(budget, tuple):
        return tuple(max(0.001, share * scale) if isinstance(share, float) else share for share in budget)
    if budget is None:
        return scale
    return max(0.001, budget * scale) if isinstance(budget, float) else budget


def fit(train: LossTable, policy: Policy, select: Engine, report: Engine, seed: int) -> tuple[AlphaModel, Pipeline]:
    """Fit on ``train`` (from the search split, around ``policy``), decide on ``select``, measure on ``report``."""
    ridge = min(RIDGES, key=lambda strength: _cross_validated_regret(train, strength, seed))
    pipeline = _fit_surface(train, ridge)
    deciding, proving = (loss_table(engine, policy, scales=(1.0,)) for engine in (select, report))
    return judge(train, pipeline, deciding, proving, seed, uses_alpha(policy)), pipeline


def uses_alpha(policy: Policy) -> bool:
    """False if no layer ranks its tokens by decayed attention: a window votes, positions decide, or nothing is cut."""
    return any(layer.uses_scores and layer.window is None and layer.budget != 1.0 for layer in policy.layers)


def judge(
    train: LossTable, pipeline: Pipeline, deciding: LossTable, proving: LossTable, seed: int, alpha_matters: bool = True
) -> AlphaModel:
    """Surface or constant? ``deciding`` and ``proving`` are tables of other inputs at the tuned budget alone."""
    inputs = len(train.tokens) // len(BUDGET_SCALES)
    constant = int(train.loss[:inputs].mean(0).argmin())  # the first rows are those of the tuned budget
    surface = _plain(pipeline)

    def gain(table: LossTable) -> tuple[Interval, float, float]:
        picks = _surface_values(surface, _features(table.tokens, table.fraction)).argmin(1)
        oracle = table.loss.min(1)
        of_model = table.loss[np.arange(len(picks)), picks] - oracle
        of_constant = table.loss[:, constant] - oracle
        return paired_interval(of_constant - of_model, seed), float(of_constant.mean()), float(of_model.mean())

    decided, _, _ = gain(deciding)
    proven, regret_constant, regret_model = gain(proving)
    better = alpha_matters and decided.low > 0
    reason = ""
    if not alpha_matters:
        reason = "the policy does not rank tokens by decayed attention, so alpha changes nothing"
    elif not better:
        regrets = f"{regret_constant:.4f} nats per token for the constant, {regret_model:.4f} for the regressor"
        reason = f"the regressor does not beat the best constant on unseen inputs (regret {regrets}): constant used"
    return AlphaModel(
        kind="cubic surface" if better else "constant",
        constant_half_life=HALF_LIVES[constant],
        tokens_range=(int(train.tokens.min()), int(train.tokens.max())),
        fraction=float(train.fraction[:inputs].mean()),
        surface=surface if better else None,
        regret_constant=regret_constant,
        regret_model=regret_model,
        gain=proven,
        n_held_out=len(proving.tokens),
        reason=reason,
    )


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
