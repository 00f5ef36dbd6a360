"""The picture as figures, while a study runs and before its first trial."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.tuner.reporting.studies import make_trials
from tuner.reporting.front import write_front
from tuner.reporting.names import FRONT_FILE
from tuner.search.objectives import QUALITY


def test_a_running_study_shows_kl_against_cache_in_order(tmp_path: Path) -> None:
    trials = [
        replace(t, metrics={**t.metrics, QUALITY: t.metrics["lost"] / 40}) if t.metrics else t for t in make_trials()
    ]
    write_front(tmp_path, trials)
    front = json.loads((tmp_path / FRONT_FILE).read_text())
    assert [each["number"] for each in front["trials"]] == list(range(len(trials)))
    assert (front["trials"][-1]["state"], front["trials"][-1]["kl"]) == ("failed", None)
    picture = front["picture"]
    assert (picture["proven"], picture["allowed"]) == ([], None)
    assert [family["name"] for family in picture["families"]] == ["h2o", "streaming-llm"]
    low, high = picture["y_range"]
    for spots in (picture["dots"], picture["front"], *(family["points"] for family in picture["families"])):
        assert all(low <= spot["y"] <= high and 0 < spot["x"] < 100 and "keeps" in spot["text"] for spot in spots)
    heights = [tick["y"] for tick in picture["y_ticks"]]
    assert heights == sorted(heights)
    assert picture["y_ticks"][0]["text"] == "0"
    worse = sorted(picture["front"], key=lambda spot: spot["x"])
    assert [spot["y"] for spot in worse] == sorted((spot["y"] for spot in worse), reverse=True)


def test_before_the_first_trial_there_is_no_picture(tmp_path: Path) -> None:
    write_front(tmp_path, [])
    assert json.loads((tmp_path / FRONT_FILE).read_text()) == {"trials": [], "picture": None}
