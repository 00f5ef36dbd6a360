"""What is exported of the alpha regressor: plain numbers, and how they did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from a2sf_core.half_life import alpha_of
from a2sf_core.rules.base import plain
from tuner.alpha.schema import FEATURES, AlphaSchema
from tuner.judging.intervals import Interval
from tuner.measuring.bank import HALF_LIVES
from tuner.schemas import validated


@dataclass(frozen=True)
class AlphaModel:
    """What is exported: plain numbers, and how they did. `regret_*` are nats per token over the per-input oracle."""

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
        """Half-life for an input of `tokens` at the tuned budget, and a remark where it is not the surface's."""
        low, high = self.tokens_range
        if self.surface is None:
            return self.constant_half_life, self.reason
        if not low <= tokens <= high:
            reach = f"the {low} to {high} that the regressor was fitted on"
            return self.constant_half_life, f"{tokens} tokens lie outside {reach}, so this is the best constant"
        losses = surface_values(self.surface, features(np.array([tokens]), np.array([self.fraction])))
        return HALF_LIVES[int(losses[0].argmin())], ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinity is written "inf". `features` and `half_lives` are for a reader: they name the surface's
        columns and rows, and `from_dict` does not ask for them."""
        return {
            "kind": self.kind,
            "constant_half_life": plain(self.constant_half_life),
            "constant_alpha": alpha_of(self.constant_half_life),
            "tokens_range": list(self.tokens_range),
            "budget_fraction": self.fraction,
            "features": list(FEATURES),
            "half_lives": plain(HALF_LIVES),
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
    def from_dict(cls, data: Any, where: str = "alpha_model") -> AlphaModel:
        """Read what `to_dict` wrote.

        Raises:
            A2SFError: naming the field that is missing, unknown or not what `to_dict` writes.
        """
        read = validated(AlphaSchema, data, where, "tune again, or mend the file.")
        regret, (low, high) = read.regret_nats_per_token, read.tokens_range
        return cls(
            read.kind, float(read.constant_half_life), (low, high), read.budget_fraction,
            None if read.surface is None else read.surface.model_dump(), regret.constant, regret.regressor,
            Interval(*regret.constant_minus_regressor), regret.held_out_inputs, read.reason,
        )  # fmt: skip


def features(tokens: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """`[input * half_life, feature]`: every half-life of the bank for every input. Infinity counts as 4 lengths."""
    n = np.repeat(tokens.astype(float), len(HALF_LIVES))
    share = np.repeat(fraction, len(HALF_LIVES))
    bank = np.tile(np.array(HALF_LIVES), len(tokens))
    memory = np.log2(1 + np.minimum(bank, 4 * n))
    return np.stack([memory, memory - np.log2(n), np.log2(n), np.log2(np.maximum(share * n, 1)), share], 1)


def surface_values(surface: dict[str, list[Any]], features: np.ndarray) -> np.ndarray:
    """[input, half_life]: the fitted relative loss, from plain numbers alone."""
    scaled = (features - np.array(surface["mean"])) / np.array(surface["scale"])
    terms = np.prod(scaled[:, None, :] ** np.array(surface["powers"])[None], axis=2)  # [row, term]
    return (terms @ np.array(surface["coefficients"])).reshape(-1, len(HALF_LIVES))


def alpha_example() -> Any:
    """One input row of the alpha regressor's surface, with the names of its features, for MLflow's signature."""
    import pandas as pd

    return pd.DataFrame([[3.0, -6.0, 9.0, 7.0, 0.25]], columns=list(FEATURES))
