"""What is wrong with the settings is one sentence, and nothing is downloaded to say it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from tuner.inputs.check import check
from tuner.inputs.tasks import load_task
from tuner.settings import Settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trials": 0}, "--trials is 0; expected 1 or more"),
        ({"max_degradation": float("nan")}, "--max-degradation is nan; expected 0 or more"),
        ({"seed": -1}, "--seed is -1; expected 0 to 4294967295."),
        ({"patience": 0}, "--patience is 0; expected 1 or more trials"),
        ({"precision": float("inf")}, "--precision is inf; expected percentage points above 0"),
        ({"precision": 1e-320}, "--precision is 9.99989e-321; expected percentage points above 0"),
        ({"trials": 10**9}, "--trials is 1000000000; expected 1 or more, at most 1000000; 100 is a good start."),
        ({"memory": "9" * 400}, "--memory is '999"),
        ({"mlflow": "file:./mlruns"}, "--mlflow is 'file:./mlruns': MLflow has given up its file store"),
        ({"rules": ("decay", "windov")}, "--rule is 'windov'; did you mean 'window'?"),
        ({"rules": ()}, "--rule is nothing; expected one rule or several, each once."),
        ({"rules": ("decay", "decay")}, "--rule is decay, decay; expected one rule or several, each once."),
        ({"seed": 2**32}, "--seed is 4294967296; expected 0 to 4294967295."),
        ({"family": "grups"}, "--family is 'grups'; did you mean 'groups'?"),
        ({"sampler": "annealing"}, "--sampler is 'annealing'; expected one of tpe, "),
        ({"memory": "lots"}, "--memory is 'lots'; expected a size above 0"),
        ({"warm_start": (Path("nowhere"),)}, "--warm-start nowhere is not a folder"),
        ({"model": "./nowhere"}, "There is no model folder './nowhere'"),
        ({"study": "mine"}, "--study is the name of a study in a database; give that with --storage."),
        (
            {"storage": "mysql://me@host/db"},
            "--storage is for 'mysql'; give postgresql://USER@HOST/NAME or sqlite:///FILE.",
        ),
        ({"storage": "sqlite://"}, "--storage is 'sqlite://', which no other process can see; give postgresql://"),
        (
            {"storage": "postgresql://me:hush@127.0.0.1:9/db"},
            "the database postgresql+psycopg://me:***@127.0.0.1:9/db cannot be used (connection failed",
        ),
        ({"storage": "sqlite:///s.db", "study": " "}, "--study has 0 characters; expected 1 to 200."),
    ],
)
def test_each_fault_has_its_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(A2SFError) as caught:
        check(Settings(**{"task": "chat", "trials": 10, **wrong}))
    assert str(caught.value).startswith(said)


def test_a_name_on_the_hub_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is for what is here; the model is brought down when it is loaded."""
    monkeypatch.setattr("tuner.inputs.model_folder.hub_blocked", lambda: pytest.fail("asked the Hub"))
    inputs = check(Settings("chat", 10, model="owner/model"))
    assert inputs.task.name == "chat"


def test_bundled_samples_are_as_many_as_the_task_says() -> None:
    spec = load_task("chat").samples
    assert spec is not None
    assert len(check(Settings("chat", 10)).samples) == spec.total


def test_a_task_without_samples_asks_for_some(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: T\nprompt: '{context} {question}'\nmetric: f1\nmax_new_tokens: 4\n")
    with pytest.raises(A2SFError, match=r"'mine' has no samples of its own; give some with --data"):
        check(Settings(str(path), 10))


def test_a_metric_of_the_users_own_is_tried_before_anything_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metric_tried_early.py").write_text("def twice(prediction, reference):\n    return 2\n")
    (tmp_path / "mine.yaml").write_text("include: chat.yaml\nmetric: metric_tried_early:twice\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    with pytest.raises(A2SFError, match=r"metric_tried_early:twice gives 2 on sample 'chat-00000'; expected a number"):
        check(Settings("mine.yaml", 10))


@pytest.mark.parametrize(
    ("metric", "row", "said"),
    [
        ("accuracy", {}, "x.jsonl line 1 has no column 'choices' (it has id, context, question, answer); the task's"),
        ("accuracy", {"options": ["x", "z"]}, "pass --column choices=options"),
        (
            "accuracy",
            {"choices": ["x"]},
            "Sample 'a' has 1 choices for the metric accuracy; give it a column 'choices'",
        ),
        ("accuracy", {"choices": ["x", "y"]}, "the right one among them"),
        ("facts", {}, "asks for facts, a list of texts: add them, pass --column facts=NAME, or take another metric"),
        ("facts", {"facts": "z"}, "x.jsonl line 1: column 'facts' is text; expected a list of texts"),
        ("facts", {"facts": None}, "Sample 'a' has no facts for the metric facts; give it a column 'facts'"),
    ],
)
def test_what_a_metric_needs_of_every_sample_is_asked_for_first(
    tmp_path: Path, metric: str, row: dict[str, object], said: str
) -> None:
    data, task = tmp_path / "x.jsonl", tmp_path / "mine.yaml"
    data.write_text(json.dumps({"id": "a", "context": "c", "question": "q", "answer": "z", **row}) + "\n")
    task.write_text(f"include: knowledge.yaml\nmetric: {metric}\n")
    with pytest.raises(A2SFError, match=re.escape(said)):
        check(Settings(str(task), 5, data=str(data)))


def test_columns_that_no_metric_asks_for_are_the_users_own(tmp_path: Path) -> None:
    """They are called so in many data sets, and hold texts, numbers or objects there."""
    data = tmp_path / "x.jsonl"
    row = {"context": "c", "question": "q", "answer": "z", "facts": "a text", "choices": {"a": 1}, "options": 4}
    data.write_text(json.dumps(row) + "\n")
    (sample,) = check(Settings("knowledge", 5, data=str(data))).samples
    assert (sample.answer, sample.facts, sample.choices) == ("z", (), ())
    with pytest.raises(A2SFError, match="column 'facts' is text; expected a list of texts"):
        check(Settings("knowledge", 5, data=str(data), columns={"facts": "facts"}))
    data.write_text(json.dumps(row | {"facts": ["z"]}) + "\n")
    (sample,) = check(Settings("summarisation", 5, data=str(data))).samples
    assert sample.facts == ("z",)
