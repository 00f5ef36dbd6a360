"""What a study is asked for with, field by field, and the settings that it makes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from tuner.choices import DEFAULT_RULES, FAMILIES, REFERENCE, RULES, SAMPLERS
from tuner.schemas import Finite, Name, Schema

Word = Annotated[str, Field(min_length=1, max_length=300)]
ID, EXAMPLE_ID = r"^[0-9a-f]{30}$", "0123456789abcdef0123456789abcd"
"""What `tuner.workers.jobs.new_id` makes."""
Id = Annotated[str, Field(pattern=ID)]
_EXAMPLE: dict[str, JsonValue] = {
    "task": "knowledge", "model": "reference", "max_degradation": 4.0, "trials": 100, "name": "support calls, March",
}  # fmt: skip
MOST_TRIALS = 100_000
MEND = "docs/service.md has every field."


class StudySpec(Schema):
    """A study: the options of `a2sf-tune`, by the same names.

    `task` is a bundled task's name, or a task written out as docs/tasks.md has it. `samples` is an upload of yours,
    `data` a file under a folder that the service allows; without both the task's own samples are taken. `model` is
    `reference`, `smollm2`, a folder under one that the service allows, or a Hub name that it allows. `warm_start` names
    studies of yours.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    task: Word | dict[str, Any]
    name: Annotated[str, Field(max_length=200)] = ""
    model: Word = REFERENCE
    adapter: Word | None = None
    samples: Id | None = None
    data: Word | None = None
    columns: Annotated[dict[Name, Name], Field(max_length=10)] = Field(default_factory=dict)
    limit: Annotated[int, Field(ge=1, le=10**9)] | None = None
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 100
    max_degradation: Annotated[Finite, Field(ge=0, le=100)] = 2.0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    family: Annotated[str, Field(json_schema_extra={"enum": list(FAMILIES)})] = "groups"
    per_head: bool = True
    rules: Annotated[
        list[Annotated[str, Field(json_schema_extra={"enum": list(RULES)})]], Field(min_length=1, max_length=len(RULES))
    ] = Field(default_factory=lambda: list(DEFAULT_RULES))
    sampler: Annotated[str, Field(json_schema_extra={"enum": list(SAMPLERS)})] = "tpe"
    warm_start: Annotated[list[Id], Field(max_length=10)] = Field(default_factory=list)
    patience: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    precision: Annotated[Finite, Field(ge=0.001, le=100)] | None = None
    cut: Literal["prompt", "context"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> StudySpec:
        if self.samples and self.data:
            raise ValueError("samples and data are both given; keep one")
        return self


class Question(Schema):
    """Of /v1/suggest: a study that has ended, and the length of an input in tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"study": EXAMPLE_ID, "tokens": 700}]})

    study: Id
    tokens: Annotated[int, Field(ge=1, le=2**40)]
