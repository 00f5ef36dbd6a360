"""The pictures: drawn, self-contained, and their titles true."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from a2sf_core import Policy
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval
from tuner.reporting.half_life import half_life_png
from tuner.reporting.html import pareto_html
from tuner.reporting.pareto import pareto_png
from tuner.reporting.picture import finding, picture_of
from tuner.search.records import TrialRecord


def candidate(label: str, kept: float, mean: float, low: float) -> Candidate:
    return Candidate(label, Policy.full(2), kept, Interval(mean, low, mean + 0.2))


def make_trials() -> list[TrialRecord]:
    draw = random.Random(0)
    points = [(name, kept, 60 * math.exp(-rate * kept))
              for name, rate in (("h2o", 8), ("streaming-llm", 3)) for kept in (0.1, 0.3, 0.6)]  # fmt: skip
    points += [("full", 1.0, 0.0)]
    for _ in range(60):
        kept = draw.uniform(0.05, 0.9)
        points.append(("", kept, 40 * math.exp(-12 * kept) + draw.uniform(-0.2, 3)))
    trials = [
        TrialRecord(
            n, "complete", f"{method} {kept}" if method else "search", {"budget": kept},
            {"cache_fraction": kept, "lost": lost}, "{}", kind="baseline" if method else "search", method=method,
        )
        for n, (method, kept, lost) in enumerate(points)
    ]  # fmt: skip
    return [*trials, TrialRecord(len(trials), "failed", "search", {}, {}, "", error="out of memory")]


TUNED = candidate("trial 17", 0.231, -0.42, -0.91)
HAND = candidate("h2o 0.6", 0.6, -0.2, -0.6)


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


def test_html_holds_its_own_script(tmp_path: Path) -> None:
    pareto_html(tmp_path / "a.html", make_trials(), TUNED, HAND, "lost", 1.0)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "23% of the cache is enough" in text
    assert '<script src="http' not in text


@pytest.mark.parametrize(
    ("trials", "chosen", "baseline", "goal"),
    [
        ([], TUNED, None, 1.0),
        (make_trials(), candidate("full cache", 1.0, 0.0, 0.0), None, 0.0),
        (make_trials(), candidate("trial 3", 0.02, 5.0, -30.0), HAND, 0.5),
    ],
)
def test_odd_studies_are_drawn_too(
    tmp_path: Path, trials: list[TrialRecord], chosen: Candidate, baseline: Candidate | None, goal: float
) -> None:
    pareto_png(tmp_path / "a.png", trials, chosen, baseline, "lost", goal)
    pareto_html(tmp_path / "a.html", trials, chosen, baseline, "lost", goal)


def test_the_title_claims_no_more_than_was_proven() -> None:
    assert finding(TUNED, HAND, 1.0)[0] == "23% of the cache is enough"
    assert "h2o 0.6, needs 60%" in finding(TUNED, HAND, 1.0)[1]
    assert finding(TUNED, HAND, 0.5)[0].startswith("Not proven: 23%")
    assert "h2o 0.6, keeps 60%, but may lose 0.6 points" in finding(TUNED, HAND, 0.5)[1]
    assert finding(candidate("full cache", 1.0, 0.0, 0.0), None, 1.0)[0].startswith("No smaller cache")
    assert "Tuning found nothing smaller" in finding(HAND, HAND, 1.0)[1]


def test_the_front_is_the_best_of_the_trials_and_a_method_is_one_line() -> None:
    picture = picture_of(make_trials(), TUNED, HAND, "lost", 1.0)
    assert {name: len(points) for name, points in picture.families.items()} == {"h2o": 3, "streaming-llm": 3}
    assert picture.front == sorted(picture.front)
    for kept, lost in picture.front:
        assert not any(x <= kept and y < lost for (x, y), _ in picture.dots)


def test_the_axis_is_linear_inside_the_goal_and_keeps_the_order_beyond() -> None:
    picture = picture_of([], TUNED, None, "lost", 2.0)
    assert picture.squash(0.5) == 0.25
    heights = [picture.squash(lost) for lost in (-40, -2, -1, 0, 1, 2, 2.1, 40)]
    assert heights == sorted(heights)
