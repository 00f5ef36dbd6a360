"""One way to share out a budget, at any total: what a bisection looks for the smallest budget of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from a2sf_core.policy import Policy
from tuner.search.baselines import Baseline
from tuner.search.records import Params
from tuner.search.space import Space


@dataclass(frozen=True)
class Shape:
    """A policy for every budget.

    Attributes:
        name: for the reader; the budget follows it.
        at: the policy at a budget, which is a share of the full cache.
        family: equal for shapes that are variants of one.
        found_at: the budget where the search found it; None for a known method.
        method: which known method it is, such as "h2o"; empty for what was tuned.
    """

    name: str
    at: Callable[[float], Policy]
    family: str = ""
    found_at: float | None = None
    method: str = ""

    @classmethod
    def of_point(cls, name: str, space: Space, params: Params, family: str = "") -> Shape:
        """That of a point of the search space, whatever its budget."""
        found_at = float(params["budget"])
        return cls(name, lambda budget: space.policy({**params, "budget": budget}), family or name, found_at)

    @classmethod
    def of_baseline(cls, baseline: Baseline, n_layers: int) -> Shape:
        """That of a known method."""
        return cls(baseline.name, lambda budget: baseline.policy(budget, n_layers), baseline.name, method=baseline.name)
