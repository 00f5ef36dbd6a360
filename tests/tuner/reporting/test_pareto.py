"""The picture of a study: large enough to read, self-contained, and drawn for odd studies too."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.tuner.reporting.studies import HAND, TUNED, candidate, make_trials
from tuner.judging.contest import Candidate
from tuner.reporting.half_life import half_life_png
from tuner.reporting.html import pareto_html
from tuner.reporting.pareto import pareto_png
from tuner.search.records import TrialRecord


def test_png_is_large_enough_to_read_at_800_pixels(tmp_path: Path) -> None:
    pareto_png(tmp_path / "a.png", make_trials(), TUNED, HAND, "lost", 1.0)
    half_life_png(
        tmp_path / "b.png",
        {"short": ([0, 1, 4, math.inf], [3, 2, 1, 4]), "long": ([0, 8], [3, math.nan])},
        "Some samples",
    )
    for name in ("a.png", "b.png"):
        content = (tmp_path / name).read_bytes()
        assert content[:4] == b"\x89PNG"
        assert int.from_bytes(content[16:20]) == 1600


@pytest.mark.parametrize(
    ("trials", "chosen", "baseline", "goal", "title", "n_lines"),
    [
        ([], TUNED, None, 1.0, "23% of the cache is enough", 0),
        (
            make_trials(), candidate("full cache", 1.0, 0.0, 0.0), None, 0.0,
            "No smaller cache is sure to lose at most 0 points", 2,
        ),
        (
            make_trials(), candidate("trial 3", 0.02, 5.0, -30.0), HAND, 0.5,
            "Not proven: 2% of the cache may lose too much", 2,
        ),
    ],
)  # fmt: skip
def test_odd_studies_are_drawn_too(
    tmp_path: Path,
    trials: list[TrialRecord],
    chosen: Candidate,
    baseline: Candidate | None,
    goal: float,
    title: str,
    n_lines: int,
) -> None:
    pareto_png(tmp_path / "a.png", trials, chosen, baseline, "lost", goal)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    pareto_html(tmp_path / "a.html", trials, chosen, baseline, "lost", goal)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    data = text[text.rindex("Plotly.newPlot(") :]
    assert title in data
    assert data.count('"mode":"lines+markers"') == n_lines, "a line per method"
    assert data.count("interval of the loss") == (1 if baseline is None else 2), "a mark per proven policy"
