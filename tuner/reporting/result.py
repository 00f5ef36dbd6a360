"""What a run hands back to its caller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.alpha.model import AlphaModel
from tuner.judging.proof import Outcome
from tuner.reporting.evidence import Evidence


@dataclass(frozen=True)
class Result:
    """What was found, and where it lies.

    folder: everything that the run made. config: the exported a2sf_config.json in it.
    outcome: the policies and how they did; evidence: the same as figures, with how they were made.
    alpha: the exported regressor. serve_command and link: how to open the study in MLflow.
    """

    folder: Path
    config: Path
    outcome: Outcome
    evidence: Evidence
    alpha: AlphaModel
    serve_command: str
    link: str

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        return self.outcome.verdict.sentence
