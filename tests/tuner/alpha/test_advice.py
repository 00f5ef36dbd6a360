"""`a2sf-tune suggest`: the exported answer in words, from any run or the latest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from a2sf_core.half_life import alpha_of
from tests.tuner.conftest import Finished
from tuner.alpha.advice import suggest_alpha


def test_the_answer_is_that_of_the_exported_model(finished: Finished) -> None:
    result = finished.result
    half_life, _ = result.alpha.suggest(40)
    said = suggest_alpha(40, result.folder)
    assert said.startswith(f"alpha {alpha_of(half_life):.4g} (half-life {half_life:g} tokens) for 40 tokens")
    assert f"task knowledge, from {result.folder}" in said


def test_a_remark_is_a_sentence_of_its_own(finished: Finished) -> None:
    answer, remark = suggest_alpha(100_000, finished.result.folder).split("\n")
    assert answer.startswith("alpha ")
    assert not remark[0].islower()
    assert remark.endswith(".")


def test_without_a_folder_the_latest_run_answers(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(A2SFError, match=r"no finished run under \./runs"):
        suggest_alpha(40, None)
    for name, time in (("new", 2000), ("old", 1000)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        copy = shutil.copy(finished.result.config, tmp_path / "runs" / name)
        os.utime(copy, (time, time))
    assert str(Path("runs") / "new") in suggest_alpha(40, None)


def test_no_tokens_is_no_input() -> None:
    with pytest.raises(A2SFError, match="--tokens is 0; expected 1 or more"):
        suggest_alpha(0, None)
