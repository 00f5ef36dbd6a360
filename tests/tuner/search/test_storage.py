"""The journal: refused for another study, mended after a kill, read by others without a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.measuring.engine import Engine
from tuner.search.objectives import MEMORY
from tuner.search.space import Space
from tuner.search.storage import read_front, read_identity, read_trials
from tuner.search.study import Plan, Study

IDENTITY = {"model": "m", "data": "d"}
SPACE = Space("bump", False, 3)


def nothing(_done: int) -> None:
    """No progress wanted."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny("llama"), samples(4), bank=SPACE.bank)


def test_a_folder_without_a_finished_trial_is_not_another_study(tmp_path: Path, engine: Engine) -> None:
    """What ended before its first trial, as with NaN in float16, is begun anew; what it measured would be another's."""
    Study(tmp_path, IDENTITY, seed=1)
    measured = [tmp_path / name for name in ("profile.json", "profile.part.json", "learned.json")]
    for path in measured:
        path.write_text("{}")
    Study(tmp_path, IDENTITY, seed=1)
    assert all(path.exists() for path in measured)
    Study(tmp_path, {**IDENTITY, "model": "other"}, seed=1).run(engine, SPACE, Plan(1), nothing)
    assert not any(path.exists() for path in measured)
    with pytest.raises(A2SFError, match=r"another model \(other, now m\)"):
        Study(tmp_path, IDENTITY, seed=1)


def test_another_identity_is_refused(tmp_path: Path, engine: Engine) -> None:
    Study(tmp_path, IDENTITY, seed=1).run(engine, SPACE, Plan(1), nothing)
    with pytest.raises(A2SFError, match=r"another model \(m, now other\).*--out"):
        Study(tmp_path, {**IDENTITY, "model": "other"}, seed=1)


def test_a_run_folder_of_the_old_space_says_how_to_start_anew(tmp_path: Path, engine: Engine) -> None:
    """Before rules had names the space had a parameter `window`; this is what such a folder says of itself."""
    before = {**IDENTITY, "search space": "6f1c8e0b5a3d"}
    Study(tmp_path, before, seed=1).run(engine, SPACE, Plan(1), nothing)
    with pytest.raises(A2SFError) as error:
        Study(tmp_path, {**IDENTITY, "search space": SPACE.digest()}, seed=1)
    sentence = str(error.value)
    assert f"holds a study with another search space (6f1c8e0b5a3d, now {SPACE.digest()})" in sentence
    assert "cannot be resumed" in sentence
    assert "start a new one with --out ANOTHER_FOLDER" in sentence


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("this is no journal\nnor this\n")
    with pytest.raises(A2SFError, match=r"study\.journal, line 1.* not valid JSON .*--out"):
        Study(tmp_path, IDENTITY, seed=1)


def test_a_torn_last_line_costs_one_trial_at_most(tmp_path: Path, engine: Engine) -> None:
    Study(tmp_path, IDENTITY, seed=1).run(engine, SPACE, Plan(6), nothing)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    study = Study(tmp_path, IDENTITY, seed=1)
    assert len(study.records()) >= 5
    study.run(engine, SPACE, Plan(8), nothing)
    assert len(Study(tmp_path, IDENTITY, seed=1).records()) == 8


def test_only_new_choices_count_as_looks_at_the_report(tmp_path: Path) -> None:
    study = Study(tmp_path, IDENTITY, seed=1)
    assert study.count_report_look([Policy.full(2)]) == 1
    assert Study(tmp_path, IDENTITY, seed=1).count_report_look([Policy.full(2)]) == 1
    assert Study(tmp_path, IDENTITY, seed=1).count_report_look([Policy.h2o(2, 0.5)]) == 2


def test_the_front_of_another_study_is_read_without_touching_it(tmp_path: Path, engine: Engine) -> None:
    Study(tmp_path, IDENTITY, seed=1).run(engine, SPACE, Plan(25), nothing)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    best = read_front(tmp_path)
    all_of_them = read_trials(tmp_path)
    assert {record.number for record in all_of_them if record.pareto} == {record.number for record in best}
    assert [record.number for record in all_of_them] == list(range(len(all_of_them)))
    assert [r.metrics[MEMORY] for r in best] == sorted(r.metrics[MEMORY] for r in best)
    assert read_identity(tmp_path) == IDENTITY
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(A2SFError, match=r"holds no study \(study\.journal is missing\)"):
        read_front(tmp_path / "nowhere")
