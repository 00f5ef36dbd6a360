"""What a run leaves behind, with something wrong in it: exported file, profile, journal, database of MLflow."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from a2sf_core import A2SFConfig
from a2sf_core.rules.learned import Learned
from tests.tuner.conftest import Finished
from tests.tuner.fuzz import mutations
from tests.tuner.fuzz.cases import command, number_of, refused_or_done, sentence_or_nothing
from tuner.measuring.engine import Engine
from tuner.search.learned_file import LEARNED_FILE, Lesson
from tuner.search.profile_file import Profiled
from tuner.search.space import Space
from tuner.search.storage import JOURNAL, Storage
from tuner.search.study import Plan, Study
from tuner.search.warm_start import read_warm_start
from tuner.tracking.tracker import Tracker

SURFACE = {
    "mean": [3.0, -2.0, 5.0, 4.0, 0.2], "scale": [1.0, 2.0, 1.0, 1.0, 0.1],
    "powers": [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 2, 1, 0, 0]], "coefficients": [0.0, 0.5, -0.25],
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(finished: Finished) -> dict[str, Any]:
    """An exported file with a surface, which most small runs do not have."""
    content = json.loads(finished.result.config.read_text())
    content["alpha_model"]["surface"] = SURFACE
    return dict(content)


def test_the_exported_file_is_advised_from_or_refused(exported: dict[str, Any], tmp_path: Path) -> None:
    path, wrong = tmp_path / "a2sf_config.json", 0
    for name, text in mutations.drawn("config", number_of(700), lambda rng: mutations.of_json(rng, exported)):
        path.write_bytes(text)
        code, out, _ = command(name, "suggest", "--tokens", "23", "--run", str(path))
        if code:
            refused_or_done(name, "suggest", "--tokens", "23", "--run", str(path))
            wrong += 1
        else:
            alpha = re.match(r"alpha ([\d.e-]+) \(half-life ([\d.einf-]+) tokens\) for 23 tokens", out)
            assert alpha, f"{name}: {out}"
            assert 0 <= float(alpha[1]) <= 1, f"{name}: {out}"
            assert float(alpha[2]) >= 0, f"{name}: {out}"
    assert wrong > number_of(700) / 2, "most mutations are refused"


def test_the_exported_file_is_attached_or_refused(
    exported: dict[str, Any], loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    model, path = loaded[0], tmp_path / "a2sf_config.json"

    def use() -> None:
        with A2SFConfig.from_pretrained(path).attach(model):
            pass

    few = {**exported, "evidence": {}, "alpha_model": None}  # mutations of what serving reads
    for name, text in mutations.drawn("attach", number_of(200), lambda rng: mutations.of_json(rng, few)):
        path.write_bytes(text)
        sentence_or_nothing(name, use)


def test_the_profile_is_used_or_refused(finished: Finished, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    known = json.loads((finished.result.folder / "profile.json").read_text())

    def use() -> None:
        profiled = Profiled.load(path)
        profiled.check_shape(4, 2, path)
        profile = profiled.used
        assert math.isfinite(float(profile.budgets(0.2).sum()))
        Space("groups", True, 4, profile=profile).enqueued()

    for name, text in mutations.drawn("profile", number_of(250), lambda rng: mutations.of_json(rng, known)):
        path.write_bytes(text)
        sentence_or_nothing(name, use)


def test_the_journal_is_resumed_or_refused(finished: Finished, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """As a warm start and as a study to go on with, to the end of its trials."""
    lines = (finished.result.folder / JOURNAL).read_text().splitlines()
    contents = [json.loads(line) for line in lines]
    identity = contents[1]["user_attr"]["identity"]

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return mutations.of_bytes(rng, "\n".join(lines).encode() + b"\n")
        place, changed = rng.randrange(min(len(lines), 6)), [line.encode() for line in lines]
        changed[place] = mutations.of_json(rng, contents[place])
        return b"\n".join(changed) + b"\n"

    for name, text in mutations.drawn("journal", number_of(300), mutate):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        (folder / JOURNAL).write_bytes(text)
        sentence_or_nothing(f"{name} as a warm start", lambda folder=folder: read_warm_start([folder], identity))
        sentence_or_nothing(name, lambda folder=folder: Storage(folder, identity).records())
        shutil.rmtree(folder)


def test_a_journal_that_reads_is_gone_on_with(finished: Finished, tmp_path: Path) -> None:
    """The few that nothing refuses must not fail later, in the search."""
    from tests.tuner.models import samples, tiny

    engine = Engine(tiny("llama"), samples(4), bank=(space := Space("bump", False, 3)).bank)
    first, identity = tmp_path / "first", {"model": "m"}
    Study(first, identity, seed=1).run(engine, space, Plan(30), lambda _: None)
    lines = (first / JOURNAL).read_bytes().splitlines()
    contents = [json.loads(line) for line in lines]

    def mutate(rng: random.Random) -> bytes:
        changed, place = list(lines), rng.randrange(2, len(lines))
        changed[place] = json.dumps(mutations.of_value(rng, contents[place])).encode()
        return b"\n".join(changed) + b"\n"

    for name, text in mutations.drawn("resume", number_of(200), mutate):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        (folder / JOURNAL).write_bytes(text)
        sentence_or_nothing(
            name,
            lambda folder=folder: Study(folder, identity, seed=1).run(engine, space, Plan(31), lambda _: None),
        )
        shutil.rmtree(folder)


def test_the_lesson_is_used_or_refused(tmp_path: Path) -> None:
    path = tmp_path / LEARNED_FILE
    rule = Learned((2.0, math.inf), ((0.5, -0.2), (1.0, 0.1)), (0.7, 0.0))
    Lesson((rule, rule, rule), "why").save(path)
    known = json.loads(path.read_text())

    def use() -> None:
        found = Lesson.load(path, 3, 2)
        space = Space("uniform", False, 3, learned=found.rules)
        for trial in space.enqueued():
            json.dumps((trial.policy or space.policy(trial.params)).to_dict(), allow_nan=False)

    for name, text in mutations.drawn("lesson", number_of(250), lambda rng: mutations.of_json(rng, known)):
        path.write_bytes(text)
        sentence_or_nothing(name, use)


def test_a_database_of_mlflow_is_opened_or_named(finished: Finished, tmp_path: Path) -> None:
    whole = (finished.result.folder / "mlflow" / "mlflow.db").read_bytes()
    for name, text in mutations.drawn("mlflow", number_of(30), lambda rng: mutations.of_bytes(rng, whole)):
        folder = tmp_path / name.replace(" ", "-")
        (folder / "mlflow").mkdir(parents=True)
        (folder / "mlflow" / "mlflow.db").write_bytes(text)
        sentence_or_nothing(name, lambda folder=folder: Tracker(folder, "e", "s").sync([]))
        shutil.rmtree(folder)
