"""The lines of a study's journal and the trials that they make, checked before anything is built on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import Field

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import MEGABYTE, check_regular, parse_json
from a2sf_core.policy import Policy
from tuner.schemas import Finite, Name, Schema, validated
from tuner.search.objectives import MEMORY, QUALITY

MAX_BYTES = 2000 * MEGABYTE
"""A thousand trials of ten parameters have 4 MB."""
TURN = "turn"
"""What a trial of many workers' notes beside its figures: which of the asked-for ones it is."""
_MOST = 1_000_000
_MEND = "restore the file from a copy, or start anew with --out ANOTHER_FOLDER."


class _Result(Schema):
    policy: str
    metrics: dict[Name, Finite] = Field(default_factory=dict)
    sample_kl: Annotated[list[Finite], Field(max_length=_MOST)] = Field(default_factory=list)
    sample_nll: Annotated[list[Finite], Field(max_length=_MOST)] = Field(default_factory=list)  # of earlier versions
    error: str = ""


class _Told(Schema):
    """What is noted of a trial beside Optuna's own fields."""

    result: _Result
    label: Name = "search"
    kind: Literal["baseline", "seed", "search"] = "search"
    method: Name = ""
    turn: int = 0


class _Trial(Schema):
    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    values: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None
    params: Annotated[dict[Name, Finite | int | Name], Field(max_length=_MOST)]
    told: _Told
    constraint: Finite


class _Identity(Schema):
    identity: dict[Name, Name] = Field(default_factory=dict)
    report_looks: Annotated[list[str], Field(max_length=_MOST)] = Field(default_factory=list)


def check_lines(path: Path) -> None:
    """Raise A2SFError unless every whole line is one JSON object with an operation of Optuna's."""
    check_regular(path, "the study", MAX_BYTES)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return  # a kill or a power cut left it; what it would have said never happened
            where = f"{path}, line {number}"
            try:
                line = parse_json(raw.decode("utf-8"), where, _MEND)
            except UnicodeDecodeError:
                raise A2SFError(f"{where} is not UTF-8 text; {_MEND}") from None
            if not isinstance(line, dict) or not isinstance(line.get("op_code"), int):
                raise A2SFError(f"{where} is no line of a journal; {_MEND}")


def check_trials(path: Path | str, told: dict[str, Any], trials: Sequence[FrozenTrial], mend: str = _MEND) -> None:
    """Raise A2SFError unless the study and its finished trials say what `tuner.search.storage` writes, now or once."""
    validated(_Identity, told, path, mend)
    measured: set[int] = set()
    for trial in trials:
        where = f"{path}, trial {trial.number}"
        if trial.datetime_start is None or trial.datetime_complete is None:
            raise A2SFError(f"{where} has no time; {mend}")
        if not isinstance(trial.system_attrs, dict):
            raise A2SFError(f"{where} has attributes that are no mapping; {mend}")
        fields = {
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "told": trial.user_attrs,
            "constraint": trial.system_attrs.get("constraints:loss", 0.0),
        }
        result = validated(_Trial, fields, where, mend).told.result
        _check_parameters(trial, where, mend)
        if not result.error and not 0 < result.metrics.get(MEMORY, 0) <= 1:
            raise A2SFError(f"{where} lacks a {MEMORY} from 0 to 1 among its metrics; {mend}")
        if trial.state == TrialState.COMPLETE:
            if trial.values is None or result.error:
                raise A2SFError(f"{where} is complete, but has no values; {mend}")
            measured.add(len(result.sample_kl or result.sample_nll))
    if len(measured) > 1:
        raise A2SFError(f"{path}: its trials were measured on {sorted(measured)} samples, not on the same; {mend}")


def _check_parameters(trial: FrozenTrial, where: str, mend: str) -> None:
    try:
        create_trial(state=trial.state, params=trial.params, distributions=trial.distributions, values=trial.values)
    except Exception as error:  # whatever a range does with a value that it cannot hold
        raise A2SFError(f"{where}: {' '.join(str(error).split())[:200].rstrip('.')}; {mend}") from None


def check_for_resume(path: Path | str, trials: Sequence[FrozenTrial], mend: str = _MEND) -> None:
    """Raise A2SFError unless every finished trial has what a resume needs: its loss, and a policy that reads today."""
    for trial in trials:
        where, result = f"{path}, trial {trial.number}", trial.user_attrs["result"]
        if not result.get("error") and QUALITY not in result["metrics"]:
            raise A2SFError(f"{where} lacks {QUALITY} among its metrics; {mend}")
        try:
            Policy.from_dict(parse_json(result["policy"], "its policy", mend))
        except A2SFError as error:
            raise A2SFError(f"{where}: {error}") from None
