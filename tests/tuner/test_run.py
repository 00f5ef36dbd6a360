"""The whole job as a function: its steps, what it hands back, and the same again when called again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from tests.tuner.conftest import ROWS, Finished, Recorded
from tuner.inputs.check import check
from tuner.run import tune


def test_a_watch_is_told_every_step_to_its_end(finished: Finished) -> None:
    steps = finished.watch.steps
    assert list(steps) == [
        "Reading search prompts", "Reading prompts twice", "Profiling layers, heads", "Comparing profiles", "Trials",
        "Reading select prompts", "Choosing", "Reading report prompts", "Proving", "Proving known methods",
        "Fitting alpha",
    ]  # fmt: skip
    assert all(done == total > 0 for done, total in steps.values()), steps
    assert steps["Trials"] == (26, 26)
    parts, power, score, profile = finished.watch.said
    assert parts.endswith("3 search, 2 select, 9 report samples")
    assert power == "9 report samples can prove a loss of at most 30 points; you allow 60."
    assert score.startswith("The full cache scores 100.0% in exact_match on the search samples.")
    assert profile.startswith("Profile: ")


def test_the_result_is_what_was_asked_for(finished: Finished) -> None:
    result, samples = finished.result, finished.result.evidence.samples
    assert result.folder == finished.settings.out
    assert result.sentence == result.evidence.verdict
    assert samples.search + samples.select + samples.report == len(ROWS)
    assert sum(result.evidence.trials.values()) == 26
    assert result.outcome.exported.cache_fraction < 1, "60 points leave room for a smaller cache"
    assert result.outcome.exported.meets(60.0)
    assert result.evidence.status == "adopt"
    assert str(result.folder) in result.serve_command


def test_the_same_call_resumes_and_finds_the_same(finished: Finished) -> None:
    """The evidence counts trials and looks at the report: neither grows."""
    watch = Recorded()
    again = tune(finished.settings, check(finished.settings), watch)
    assert "Trials" in watch.steps
    assert json.dumps(again.evidence.to_dict()) == json.dumps(finished.result.evidence.to_dict())


def test_another_seed_is_another_study(finished: Finished) -> None:
    with pytest.raises(A2SFError, match=r"holds a study with another seed \(0, now 5\)"):
        tune(replace(finished.settings, seed=5))


def test_a_precision_asks_for_as_many_report_samples_as_it_takes(finished: Finished, tmp_path: Path) -> None:
    """Of the user's own data no more than there are; the fewest that a part may have where little is asked for."""
    rough = tune(replace(finished.settings, precision=10_000.0, out=tmp_path / "rough"))
    assert rough.evidence.samples.report == 2
    assert rough.outcome.on_report.n_samples == 2
