"""profile.json: what its tables may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tuner.measuring.bank import HALF_LIVES
from tuner.schemas import Finite, Name, Schema

_MOST_BUDGETS, _MOST = 100, 10_000

_HalfLife = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["inf"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Shares = Annotated[list[_Share], Field(min_length=1, max_length=_MOST)]
_Losses = Annotated[list[Finite], Field(max_length=_MOST_BUDGETS)]
_Heads = Annotated[list[_Losses], Field(min_length=1, max_length=_MOST)]


class CutAloneSchema(Schema):
    """`CutAlone.to_dict`, field by field: `[layer][budget]`, or `[layer][kv_head][budget]` for `head_loss`."""

    budgets: Annotated[list[Finite], Field(min_length=1, max_length=_MOST_BUDGETS)]
    layer_loss: Annotated[list[_Losses], Field(min_length=1, max_length=_MOST)]
    half_life: Annotated[list[Annotated[list[_HalfLife], Field(max_length=_MOST_BUDGETS)]], Field(max_length=_MOST)]
    recent: Annotated[list[Annotated[list[_Share], Field(max_length=_MOST_BUDGETS)]], Field(max_length=_MOST)]
    head_loss: Annotated[list[_Heads], Field(max_length=_MOST)]
    n_samples: Annotated[int, Field(ge=1)]
    evaluations: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _of_one_model(self) -> CutAloneSchema:
        layers = {len(self.layer_loss), len(self.half_life), len(self.recent), len(self.head_loss)}
        if len(layers) > 1 or len({len(heads) for heads in self.head_loss}) > 1:
            raise ValueError("its tables differ in layers or KV heads")
        heads = [row for layer in self.head_loss for row in layer]
        lengths = {len(row) for table in (self.layer_loss, self.recent, heads) for row in table}
        if lengths | {len(row) for row in self.half_life} != {len(self.budgets)}:
            raise ValueError(f"its tables do not have one figure for each of {len(self.budgets)} budgets")
        if not {float(each) for row in self.half_life for each in row} <= set(HALF_LIVES):
            raise ValueError("half_life holds one that no engine knows")
        return self


class ReconstructionSchema(Schema):
    """`Reconstruction.to_dict`; `kept` is `[prompt][total][layer][kv_head]`."""

    totals: Annotated[list[_Share], Field(min_length=1, max_length=_MOST_BUDGETS)]
    floor: _Share
    half_life: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kept: Annotated[list[list[Annotated[list[_Shares], Field(max_length=_MOST)]]], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _of_one_model(self) -> ReconstructionSchema:
        if {len(prompt) for prompt in self.kept} != {len(self.totals)}:
            raise ValueError(f"kept does not have one table for each of {len(self.totals)} totals")
        layers = [table for prompt in self.kept for table in prompt]
        if len({len(table) for table in layers}) > 1 or len({len(row) for table in layers for row in table}) > 1:
            raise ValueError("its tables differ in layers or KV heads")
        return self


class FisherSchema(Schema):
    """`Fisher.to_dict`; `losses` is `[half_life][layer][kv_head][share]`."""

    shares: Annotated[list[_Share], Field(min_length=1, max_length=_MOST_BUDGETS)]
    half_lives: Annotated[list[_HalfLife], Field(min_length=1, max_length=len(HALF_LIVES))]
    half_life: _HalfLife
    floor: _Share
    n_prompts: Annotated[int, Field(ge=1)]
    losses: Annotated[
        list[Annotated[list[_Heads], Field(min_length=1, max_length=_MOST)]], Field(max_length=len(HALF_LIVES))
    ]

    @model_validator(mode="after")
    def _of_one_model(self) -> FisherSchema:
        if self.half_life not in self.half_lives or len(self.losses) != len(self.half_lives):
            raise ValueError("losses does not have one table for each of half_lives, or half_life is none of them")
        if not {float(each) for each in self.half_lives} <= set(HALF_LIVES):
            raise ValueError("half_lives holds one that no engine knows")
        layers = [layer for table in self.losses for layer in table]
        if len({len(table) for table in self.losses}) > 1 or len({len(heads) for heads in layers}) > 1:
            raise ValueError("its tables differ in layers or KV heads")
        if {len(row) for heads in layers for row in heads} != {len(self.shares)}:
            raise ValueError(f"losses does not have one figure for each of {len(self.shares)} shares")
        return self


class MeasuredSchema(Schema):
    """The profiles that were measured, by kind."""

    cut_alone: Annotated[CutAloneSchema | None, Field(alias="cut alone")] = None
    fisher: FisherSchema | None = None
    reconstruction: ReconstructionSchema | None = None


class ProfiledSchema(Schema):
    """`Profiled.save`, field by field."""

    used: Literal["cut alone", "fisher", "reconstruction"]
    why: Annotated[str, Field(max_length=2000)]
    held_out_kl: dict[Name, dict[Name, Finite]]
    measured: MeasuredSchema

    @model_validator(mode="after")
    def _used_is_there(self) -> ProfiledSchema:
        if getattr(self.measured, self.used.replace(" ", "_")) is None:
            raise ValueError(f"measured does not hold {self.used!r}, which is used")
        return self
