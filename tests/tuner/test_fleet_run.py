"""The whole job with --storage: the first worker to be through proves and exports, the other says where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.conftest import Recorded, write_short_lists
from tuner.run import tune
from tuner.search.kept import EndsElsewhere
from tuner.search.storage import read_front, read_trials
from tuner.settings import Settings

TRIALS = 26


def test_one_worker_proves_and_exports_and_the_other_says_where(tmp_path: Path) -> None:
    write_short_lists(tmp_path / "lists.jsonl")
    settings = Settings(
        "knowledge", TRIALS, data=str(tmp_path / "lists.jsonl"), out=tmp_path / "one", device="cpu",
        max_degradation=60.0, storage=f"sqlite:///{tmp_path}/study.db",
    )  # fmt: skip
    result = tune(settings)
    watch = Recorded()
    with pytest.raises(EndsElsewhere, match=rf"All {TRIALS} trials of study 'knowledge-reference' in .*/one, where"):
        tune(replace(settings, out=tmp_path / "two"), watch=watch)
    assert json.loads((tmp_path / "one" / "report.json").read_text())
    assert result.config.is_file()
    assert [trial.number for trial in read_trials(tmp_path / "one")] == list(range(TRIALS))
    assert read_front(tmp_path / "one"), "--warm-start takes it"
    assert (tmp_path / "two" / "profile.json").read_text() == (tmp_path / "one" / "profile.json").read_text()
    assert "Profiling layers, heads" not in watch.steps
    assert "Choosing" not in watch.steps
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert not left & {"mlflow", "study.journal", "a2sf_config.json", "report.json"}
