"""The alpha regressor in an exported file: what its plain numbers may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tuner.schemas import Finite, Name, Schema

FEATURES = (
    "log2_half_life",
    "log2_half_life_over_tokens",
    "log2_tokens",
    "log2_budget_tokens",
    "budget_fraction",
)
MOST_TOKENS = 2**40
_MOST_TERMS = 1000

HalfLife = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["inf"]
_PerFeature = Annotated[list[Finite], Field(min_length=len(FEATURES), max_length=len(FEATURES))]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Power = Annotated[int, Field(ge=0, le=8)]
_Powers = Annotated[list[_Power], Field(min_length=len(FEATURES), max_length=len(FEATURES))]
_Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class _Surface(Schema):
    """`tuner.alpha.model.surface_values` reads it."""

    mean: _PerFeature
    scale: Annotated[list[_Scale], Field(min_length=len(FEATURES), max_length=len(FEATURES))]
    powers: Annotated[list[_Powers], Field(min_length=1, max_length=_MOST_TERMS)]
    coefficients: Annotated[list[Finite], Field(min_length=1, max_length=_MOST_TERMS)]

    @model_validator(mode="after")
    def _a_coefficient_per_term(self) -> _Surface:
        if len(self.powers) != len(self.coefficients):
            raise ValueError(f"surface has {len(self.powers)} powers and {len(self.coefficients)} coefficients")
        return self


class _Regret(Schema):
    constant: Finite
    regressor: Finite
    constant_minus_regressor: Annotated[list[Finite], Field(min_length=3, max_length=3)]
    held_out_inputs: Annotated[int, Field(ge=0)]


class AlphaSchema(Schema):
    """`AlphaModel.to_dict`, field by field. What is for a reader alone may be left out."""

    kind: Name
    constant_half_life: HalfLife
    constant_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    tokens_range: Annotated[list[_Tokens], Field(min_length=2, max_length=2)]
    budget_fraction: Annotated[float, Field(gt=0, le=1)]
    features: Annotated[list[Name], Field(max_length=100)] | None = None
    half_lives: Annotated[list[HalfLife], Field(max_length=1000)] | None = None
    surface: _Surface | None
    regret_nats_per_token: _Regret
    reason: str

    @model_validator(mode="after")
    def _shortest_first(self) -> AlphaSchema:
        if self.tokens_range[0] > self.tokens_range[1]:
            raise ValueError(f"tokens_range is {self.tokens_range}, expected the shorter length first")
        return self
