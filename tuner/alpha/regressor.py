"""The alpha regressor: which half-life suits an input of this length.

Its data cost nothing extra: the engine holds each half-life of every sample. The loss is fitted as a cubic surface
over (half-life, length, budget) on the search split; the suggestion is its minimum at the tuned budget. Whether that
beats the best constant is decided on the select split, by regret: the loss over the best half-life of each input. If it
does not, the constant is exported; if it does, how much it gains is measured on the report split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from a2sf_core.policy import Policy
from tuner.alpha.model import AlphaModel, features, surface_values
from tuner.alpha.table import BUDGET_SCALES, LossTable, loss_table, places, uses_alpha
from tuner.judging.intervals import Interval, paired_interval
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine
from tuner.watch import Count, Progress, silent

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 4


@dataclass(frozen=True)
class Fitted:
    """The regressor, its surface as a scikit-learn estimator, and the losses on the search split that it rests on."""

    model: AlphaModel
    pipeline: Pipeline
    losses: LossTable


def fit_around(policy: Policy, search: Engine, select: Engine, report: Engine, seed: int, progress: Progress) -> Fitted:
    """Fit the regressor for inputs like those of the three splits, around `policy`."""
    count = Count(progress, (len(BUDGET_SCALES) + 2) * len(places(search)))
    losses = loss_table(search, policy, count)
    model, pipeline = fit(losses, policy, select, report, seed, count)
    return Fitted(model, pipeline, losses)


def fit(
    train: LossTable, policy: Policy, select: Engine, report: Engine, seed: int, count: Count | None = None
) -> tuple[AlphaModel, Pipeline]:
    """Fit on `train` (from the search split, around `policy`), decide on `select`, measure on `report`."""
    count = count or Count(silent, 1)
    ridge = min(RIDGES, key=lambda strength: _cross_validated_regret(train, strength, seed))
    pipeline = _fit_surface(train, ridge)
    deciding = loss_table(select, policy, count, (1.0,))
    model = judge(
        train, pipeline, deciding, lambda: loss_table(report, policy, count, (1.0,)), seed, uses_alpha(policy)
    )
    count.close()
    return model, pipeline


def judge(
    train: LossTable, pipeline: Pipeline, deciding: LossTable, proving: Callable[[], LossTable], seed: int,
    alpha_matters: bool = True,
) -> AlphaModel:  # fmt: skip
    """Surface or constant? `deciding` and `proving` are tables of other inputs at the tuned budget alone; the latter is
    measured only for a surface that beats the constant."""
    inputs = len(train.tokens) // len(BUDGET_SCALES)
    constant = int(train.loss[:inputs].mean(0).argmin())  # the first rows are those of the tuned budget
    surface = _plain(pipeline)

    def gain(table: LossTable) -> tuple[Interval, float, float]:
        picks = surface_values(surface, features(table.tokens, table.fraction)).argmin(1)
        oracle = table.loss.min(1)
        of_model = table.loss[np.arange(len(picks)), picks] - oracle
        of_constant = table.loss[:, constant] - oracle
        return paired_interval(of_constant - of_model, seed), float(of_constant.mean()), float(of_model.mean())

    judges, found = deciding, gain(deciding)
    better = alpha_matters and found[0].low > 0
    if better:
        judges = proving()
        found = gain(judges)
    gained, regret_constant, regret_model = found
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
        gain=gained,
        n_held_out=len(judges.tokens),
        reason=reason,
    )


def _relative(table: LossTable) -> np.ndarray:
    """[input * half_life]: the loss over the input's mean, so that hard inputs do not drown the half-life's effect."""
    return (table.loss - table.loss.mean(1, keepdims=True)).ravel()


def _fit_surface(table: LossTable, strength: float) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge(strength))
    return pipeline.fit(features(table.tokens, table.fraction), _relative(table))


def _cross_validated_regret(table: LossTable, strength: float, seed: int) -> float:
    rows_per_scale = len(table.tokens) // len(BUDGET_SCALES)
    regret = 0.0
    folds = KFold(min(FOLDS, rows_per_scale), shuffle=True, random_state=seed)
    for fit_inputs, test_inputs in folds.split(np.arange(rows_per_scale)):
        fit_rows, test_rows = (
            np.concatenate([inputs + scale * rows_per_scale for scale in range(len(BUDGET_SCALES))])
            for inputs in (fit_inputs, test_inputs)
        )
        pipeline = _fit_surface(table.take(fit_rows), strength)
        test = table.take(test_rows)
        values = pipeline.predict(features(test.tokens, test.fraction)).reshape(test.loss.shape)
        regret += float((test.loss[np.arange(len(test_rows)), values.argmin(1)] - test.loss.min(1)).sum())
    return regret


def _plain(pipeline: Pipeline) -> dict[str, list[Any]]:
    scaler, polynomial, ridge = (step for _, step in pipeline.steps)
    return {
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
        "powers": polynomial.powers_.tolist(),
        "coefficients": ridge.coef_.tolist(),
    }
