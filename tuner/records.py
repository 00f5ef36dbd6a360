"""What the parts of the tuner hand each other: plain, frozen records without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial of a study, as tracking and report see it.

    ``params`` are the sampled parameters and ``metrics`` the measured figures, by name; ``label`` is "search" or the
    name of a baseline; ``state`` is "complete" or "failed"; ``policy_json`` is the whole policy.
    """

    number: int
    state: str
    label: str
    params: Mapping[str, float | int]
    metrics: Mapping[str, float]
    policy_json: str
    pareto: bool = False
    error: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
