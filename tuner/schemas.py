"""What all schemas of files that a run reads back have in common: strict types, finite numbers, one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean
from a2sf_core.foreign import shortened

Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=1000)]


class Schema(BaseModel):
    """Frozen; unknown fields are refused, and nothing is taken for what it is not: "1" is no number, true is no 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Any_ = TypeVar("Any_", bound=Schema)


def validated(schema: type[Any_], data: Any, where: str | Path, mend: str) -> Any_:
    """`data` as `schema` has it.

    Raises:
        A2SFError: naming `where`, the first field that is wrong and what was expected; `mend` says what to do.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise A2SFError(f"{where}: {_sentence(first, schema)}; {mend}") from None


def _sentence(error: ErrorDetails, schema: type[Schema]) -> str:
    where = ".".join(str(part) for part in error["loc"][:8])[:200]
    if error["type"] == "missing":
        return f"field {where!r} is missing"
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(error["loc"][-1], schema.model_fields, "").rstrip("?")
        return f"there is no field {where!r}" + (f"; {hint}" if hint else "")
    said = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"])
    return f"field {where!r} is {shortened(error['input'])}: {said}" if where else said
