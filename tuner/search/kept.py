"""What a study needs of the place that keeps it: a journal in its folder, or a database that many workers share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from optuna.trial import FrozenTrial

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.search.records import FirstTrial, TrialRecord


@dataclass(frozen=True)
class Turn:
    """One trial that is to be run: one of those that the study begins with, or None for what the sampler proposes.

    `attempt` tells a loan of this turn from earlier and later ones.
    """

    number: int
    first: FirstTrial | None = None
    attempt: int = 1


class EndsElsewhere(A2SFError):
    """Another worker of the study has the last word: it chooses, proves and exports."""


class Kept(Protocol):
    """Where a study is kept. `stream` tells workers on one study apart: with one seed they would propose the same."""

    stream: int

    def claim(self, goal: int, most: int, first: Sequence[FirstTrial]) -> list[Turn]:
        """Up to `most` of the turns that are missing to `goal` trials, those of `first` in their order before others.

        Waits while all that is missing is under way elsewhere; empty once that is finished.
        """

    def fresh(self) -> list[FrozenTrial]:
        """Finished trials that were not given to `add` here, each once."""

    def add(self, trial: FrozenTrial, turn: Turn, /) -> None:
        """Keep a finished trial, whole or not at all."""

    def trials(self) -> list[FrozenTrial]:
        """Every finished trial as Optuna knows it."""

    def records(self) -> list[TrialRecord]:
        """Every finished trial; one that was interrupted is not among them."""

    def count_report_look(self, policies: Sequence[Policy]) -> int:
        """Note which policies the report split is about to be shown, and say how many choices it has seen by now."""

    def preparing(self) -> AbstractContextManager[None]:
        """Within it what shapes the search (profile, learned rules) is measured into the run folder, or found there."""

    def concluding(self) -> AbstractContextManager[None]:
        """Within it the result is made. Raises EndsElsewhere where another worker does that."""
