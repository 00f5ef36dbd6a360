"""What every place that keeps a study does with Optuna's trials: results written and read, records, identity, looks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from a2sf_core.cuts import PROMPT
from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.search.records import TrialRecord

_RESULT = "result"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class TrialResult:
    """What was measured of a trial, kept in the journal beside Optuna's own fields.

    policy: the whole policy as JSON. metrics: means over the samples seen. sample_kl: of each of them, in their order.
    error: why there are no figures; empty if there are.
    """

    policy: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    sample_kl: Sequence[float] = ()
    error: str = ""

    def write_to(self, trial: Trial) -> None:
        """Attach it to a trial that is about to be told."""
        figures = {"error": self.error} if self.error else {"metrics": self.metrics, "sample_kl": self.sample_kl}
        trial.set_user_attr(_RESULT, {"policy": self.policy, **figures})

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialResult:
        """That of a finished trial; what earlier versions measured, and no longer counts, is left out."""
        told = trial.user_attrs[_RESULT]
        return cls(**{each.name: told[each.name] for each in fields(cls) if each.name in told})


def check_identity(where: str, stored: Mapping[str, str], identity: Mapping[str, str], elsewhere: str) -> None:
    """Raise A2SFError unless the study in `where` was made with `identity`; a new one would begin `elsewhere`."""
    stored = {"cut": PROMPT, **stored}  # studies are cut after the prompt unless they say otherwise
    for name, value in {"cut": PROMPT, **identity}.items():
        if stored.get(name) != value:
            mend = f"continue it with the same settings, or start a new one with {elsewhere}."
            if name == "search space":
                mend = (
                    f"one that an earlier version made cannot be resumed: start a new one with {elsewhere}; else give "
                    "--family, --rule and --no-per-head as before."
                )
            raise A2SFError(f"{where} holds a study with another {name} ({stored.get(name)}, now {value}); {mend}")


def count_look(study: optuna.Study, policies: Sequence[Policy]) -> int:
    """Note a look at the report samples in `study`, unless it had the same before, and say how many there were."""
    looks: list[str] = study.user_attrs.get("report_looks", [])
    look = json.dumps([policy.to_dict() for policy in policies])
    if look not in looks:
        looks = [*looks, look]
        study.set_user_attr("report_looks", looks)
    return len(looks)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Its trials that are complete, pruned or failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def records_of(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
    """`trials` of `study` as records."""
    best = {trial.number for trial in study.best_trials}
    return [record_of(trial, trial.number in best) for trial in trials]


def record_of(trial: FrozenTrial, pareto: bool) -> TrialRecord:
    """A finished trial as tracking and report see it."""
    result, told = TrialResult.of(trial), trial.user_attrs  # what the sampler proposed was told nothing
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        label=told.get("label", "search"),
        params=trial.params,
        metrics=result.metrics,
        policy_json=result.policy,
        pareto=pareto,
        error=result.error,
        started_ms=int(trial.datetime_start.timestamp() * 1000),
        ended_ms=int(trial.datetime_complete.timestamp() * 1000),
        kind=told.get("kind", "search"),
        method=told.get("method", ""),
    )
