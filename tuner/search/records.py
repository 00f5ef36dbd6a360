"""What the parts of the tuner hand each other: plain, frozen records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from a2sf_core.policy import Policy

Value = float | int | str
Params = Mapping[str, Value]
"""A point of a search space: value by name of the parameter."""

Kind = Literal["baseline", "seed", "search"]
"""Where a trial came from: a known method, a starting point that a profile or another study gave, the sampler."""


@dataclass(frozen=True)
class FirstTrial:
    """A trial that a study starts with. `method` is the family that it belongs to, such as "h2o" or "profile".

    `policy` is given, and `params` empty, where no point of the search space says it: the sampler does not see it then.
    """

    label: str
    kind: Kind
    method: str
    params: Params
    policy: Policy | None = None

    def told(self) -> dict[str, str]:
        """What is noted of the trial beside its figures."""
        return {"label": self.label, "kind": self.kind, "method": self.method}


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial of a study, as tracking and report see it.

    `state` is "complete", "pruned" (stopped early, with the metrics of the samples it saw) or "failed". `label` names
    the trial for a reader; what it is, `kind` and `method` say (the method is empty for what the sampler proposed).
    `params` are the sampled parameters and `metrics` the measured figures, by name; `policy_json` is the whole policy.
    """

    number: int
    state: str
    label: str
    params: Params
    metrics: Mapping[str, float]
    policy_json: str
    pareto: bool = False
    error: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    kind: Kind = "search"
    method: str = ""

    @property
    def is_baseline(self) -> bool:
        """True for a known method, False for what the search and its seeds propose."""
        return self.kind == "baseline"


def policy_from(record: TrialRecord) -> Policy:
    """The policy that a trial measured."""
    return Policy.from_dict(json.loads(record.policy_json))
