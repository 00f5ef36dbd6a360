"""What the parts of the tuner hand each other: plain, frozen records without behaviour."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from a2sf_core.policy import Policy

Params = Mapping[str, float | int]
"""A point of a search space: value by name of the parameter."""

SEED = "seed"


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial of a study, as tracking and report see it.

    `state` is "complete", "pruned" (stopped early, with the metrics of the samples it saw) or "failed". `label` is
    "search", the name of a baseline, or begins with `SEED` for a starting point that a profile or another study gave.
    `params` are the sampled parameters and `metrics` the measured figures, by name; `policy_json` is the
    whole policy.
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
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """True for a known method, False for what the search and its seeds propose."""
        return self.label != "search" and not self.label.startswith(SEED)


def policy_from(record: TrialRecord) -> Policy:
    """The policy that a trial measured."""
    return Policy.from_dict(json.loads(record.policy_json))
