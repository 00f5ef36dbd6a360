"""The picture to hover over needs no network."""

from __future__ import annotations

from pathlib import Path

from tests.tuner.reporting.studies import HAND, TUNED, make_trials
from tuner.reporting.html import pareto_html


def test_html_holds_its_own_script(tmp_path: Path) -> None:
    pareto_html(tmp_path / "a.html", make_trials(), TUNED, HAND, "lost", 1.0)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "23% of the cache is enough" in text
    assert '<script src="http' not in text
