"""The exported file: all that serving needs and an auditor asks for, in one JSON that a reader can check by eye."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from a2sf_core.config import A2SFConfig
from a2sf_core.shape import fingerprint
from tuner.alpha.model import AlphaModel
from tuner.inputs.tasks import Task
from tuner.judging.contest import Candidate
from tuner.reporting.evidence import Evidence


def write_config(
    folder: Path,
    model: Any,
    task: Task,
    chosen: Candidate,
    alpha_model: AlphaModel,
    evidence: Evidence,
) -> Path:
    """Write `a2sf_config.json` into `folder`, atomically, and return its path."""
    config = A2SFConfig(
        model=fingerprint(model),
        task=task.name,
        policy=chosen.policy,
        cut=task.cut,
        alpha_model=alpha_model.to_dict(),
        guard=None,
        evidence={"tuner_version": version("a2sf-tune"), **evidence.to_dict()},
    )
    return config.save_pretrained(folder)
