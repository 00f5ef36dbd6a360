"""What a task shows before it is searched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.calls import run_here
from tests.tuner.conftest import ROWS
from tuner import cli
from tuner.judging.validation import Validation

COMMAND = [sys.executable, "-m", "tuner.cli", "validate"]


def of(scores: list[float]) -> Validation:
    return Validation("p", "a", "w", np.array(scores))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0] * 8, "Only 0.0% right: the prompt may not suit the model"),
        ([1.0] * 8, "All 8 samples score 100.0%: harder samples"),
        ([0.0, 1.0], ""),
    ],
)
def test_a_search_that_would_show_nothing_is_said(scores: list[float], expected: str) -> None:
    assert of(scores).warning().startswith(expected)
    assert bool(of(scores).warning()) == bool(expected)


def test_samples_that_are_all_alike_are_not_certain() -> None:
    assert of([0.0] * 32).interval() == pytest.approx((0.0, 0.1089), abs=1e-3)
    assert of([1.0] * 32).interval() == pytest.approx((0.8911, 1.0), abs=1e-3)
    low, high = of([0.0, 1.0] * 16).interval()
    assert 0.25 < low < 0.4 < 0.6 < high < 0.75


def test_long_prompts_are_cut_in_the_middle_of_the_display() -> None:
    shown = dict(Validation("FIRST" + "x" * 5000 + "LAST", "a", "w", np.array([0.0, 1.0])).lines())["Prompt"]
    assert "FIRST" in shown
    assert "LAST" in shown
    assert len(shown) < 1500


def test_the_verb_shows_prompt_parts_and_score(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "lamps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.yaml").write_text("include: knowledge.yaml\nmetric: exact_match\n")
    words = ["mine.yaml", "--data", "lamps.jsonl", "--model", str(small_model), "--device", "cpu"]
    result = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Parts     3 search, 2 select, 9 report samples (none cut, none left out)" in result.stdout
    assert "The lamp costs" in result.stdout
    assert "Only 0.0% right: the prompt may not suit the model" in result.stdout
    assert len(list(tmp_path.iterdir())) == 2, "nothing is written"


def test_bad_input_is_one_sentence() -> None:
    code, _, stderr = run_here(cli.main, "validate", "sumarisation")
    assert code == 2
    assert "did you mean 'summarisation'?" in stderr
    assert stderr.count("\n") == 1
