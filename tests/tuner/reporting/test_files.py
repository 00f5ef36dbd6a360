"""What lies in the folder of a run: the policy as serving reads it, its evidence twice, pictures."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np

from a2sf_core.config import A2SFConfig
from tests.tuner.conftest import Finished
from tuner.alpha.table import LossTable
from tuner.measuring.bank import HALF_LIVES
from tuner.reporting.files import half_life_curves


def test_the_exported_policy_is_the_one_that_was_proven(finished: Finished) -> None:
    result = finished.result
    config = A2SFConfig.from_pretrained(result.folder)
    assert config.policy == result.outcome.exported.policy
    assert config.task == "knowledge"
    assert config.alpha_model == result.alpha.to_dict()
    assert config.evidence == {"tuner_version": version("a2sf-tune"), **result.evidence.to_dict()}


def test_the_report_is_the_evidence_and_all_finalists(finished: Finished) -> None:
    result = finished.result
    report = json.loads((result.folder / "report.json").read_text())
    finalists = report.pop("finalists")
    assert report.pop("alpha_model") == result.alpha.to_dict()
    assert report == result.evidence.to_dict()
    assert len(finalists) == report["choice"]["candidates"] > 0
    assert {"label", "cache_fraction", "expected_difference_points"} == set(finalists[0])


def test_every_picture_is_there(finished: Finished) -> None:
    for name in ("pareto.png", "half_life.png", "profile.png"):
        assert (finished.result.folder / name).read_bytes()[:4] == b"\x89PNG"
    assert (finished.result.folder / "pareto.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_curves_are_means_of_the_tightest_budget_by_length() -> None:
    tokens = np.tile([100, 110, 200, 210, 300, 310], 3)
    loss = np.arange(18.0)[:, None] + np.zeros(len(HALF_LIVES))  # [row, half_life]
    curves = half_life_curves(LossTable(tokens, np.ones(18), loss))
    assert list(curves) == ["100 to 170 tokens", "170 to 240 tokens", "240 to 310 tokens"]
    for (half_lives, means), expected in zip(curves.values(), (12.5, 14.5, 16.5), strict=True):
        assert half_lives == list(HALF_LIVES)
        assert set(means) == {expected}
