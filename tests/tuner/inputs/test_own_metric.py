"""Metrics of the user's own: found where they lie, and every way in which they can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from studies.samples import Sample
from tuner.inputs.metrics import METRICS, Metric
from tuner.inputs.own_metric import find_metric, text_score
from tuner.inputs.tasks import load_task

SOURCE = """\
import neighbour_of_mine
CONSTANT = 1
def half(prediction, reference):
    return 0.5 if prediction == reference else 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of the user's in it; modules and path are as before afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics_of_mine.py").write_text(SOURCE)
    (tmp_path / "neighbour_of_mine.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def said(name: str) -> str:
    with pytest.raises(A2SFError) as caught:
        find_metric(name)
    return str(caught.value)


def test_a_function_in_the_current_folder_is_a_metric(folder: Path) -> None:
    metric = find_metric("metrics_of_mine:half")
    assert (metric.name, metric.needs_generation, metric.compute("a", "a")) == ("metrics_of_mine:half", True, 0.5)


def test_a_file_of_the_user_takes_no_name_from_a_library(folder: Path) -> None:
    (folder / "colorsys.py").write_text("raise RuntimeError('the wrong one')")
    sys.modules.pop("colorsys", None)
    find_metric("metrics_of_mine:half")
    import colorsys

    assert "hsv_to_rgb" in vars(colorsys)


def test_names_of_ours_are_found_and_misspelt_ones_guessed() -> None:
    assert find_metric("f1") is METRICS["f1"]
    assert "is 'rouge'; did you mean 'rouge_l'? expected one of token_accuracy, accuracy, exact_match" in said("rouge")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "metrics_of_mien:half",
            "there is no module 'metrics_of_mien' in {folder} or on the Python path; did you mean",
        ),
        ("zzz:half", "there is no module 'zzz' in {folder} or on the Python path; check the name, or set PYTHONPATH"),
        ("zzz.metrics:half", "there is no module 'zzz.metrics' in {folder}"),
        ("metrics_of_mine:halve", "metrics_of_mine.py has no function 'halve'; did you mean 'metrics_of_mine:half'?"),
        ("metrics_of_mine:CONSTANT", "metrics_of_mine.py has no function 'CONSTANT'; define it there"),
        ("metrics_of_mine.py:", "is written my_module:function, without .py"),
        ("needy:half", "needy needs 'not_there_at_all', which is not installed"),
        ("broken:half", "the module 'broken' cannot be imported (SyntaxError: "),
        ("leaver:half", "the module 'leaver' cannot be imported (SystemExit: 3)"),
    ],
)
def test_what_is_not_there_is_said_with_where_it_was_looked_for(folder: Path, name: str, expected: str) -> None:
    (folder / "needy.py").write_text("import not_there_at_all")
    (folder / "broken.py").write_text("def half(:")
    (folder / "leaver.py").write_text("raise SystemExit(3)")
    message = said(name)
    assert message.startswith(f"is {name!r}")
    assert expected.format(folder=folder) in message
    assert "\n" not in message


def test_a_task_names_its_file_and_the_metric_that_is_not_there(folder: Path) -> None:
    path = folder / "mine.yaml"
    path.write_text('title: x\nprompt: "{context}{question}"\nmetric: metrics_of_mine:halve\nmax_new_tokens: 1\n')
    with pytest.raises(A2SFError) as caught:
        load_task(str(path))
    assert str(caught.value).startswith(f"{path}: field 'metric' is 'metrics_of_mine:halve', but ")
    assert str(caught.value).endswith("did you mean 'metrics_of_mine:half'?")
    path.write_text(path.read_text().replace("halve", "half"))
    assert load_task(str(path)).metric == "metrics_of_mine:half"


def fails(prediction: str, reference: str) -> float:
    return float(prediction[99])


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (fails, "The metric m fails on sample 's7' (IndexError: string index out of range)"),
        (lambda *_: float("nan"), "The metric m gives nan on sample 's7'; expected a number from 0 to 1."),
        (lambda *_: 1.5, "gives 1.5 on sample 's7'"),
        (lambda *_: -0.1, "gives -0.1 on sample 's7'"),
        (lambda *_: None, "gives None on sample 's7'"),
    ],
)
def test_a_metric_that_leaves_its_range_names_sample_and_value(compute: Callable[..., Any], expected: str) -> None:
    with pytest.raises(A2SFError) as caught:
        text_score(Metric("m", True, compute), "a", Sample("s7", "", "", "b"))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_best_reference_counts() -> None:
    assert text_score(METRICS["f1"], "cat dog", Sample("s", "", "", "bird", ("cat", "cat dog cow"))) == pytest.approx(
        4 / 5
    )
    assert text_score(METRICS["exact_match"], "Monday", Sample("s", "", "", "Tuesday", ("Monday",))) == 1.0


def test_facts_count_each_for_itself() -> None:
    said = "Ana from Rome called about the lamp. It is dark."
    sample = Sample("s", "", "", said, facts=("Ana", "from Rome", "about the lamp", "It is dark"))
    assert text_score(METRICS["facts"], said, sample) == 1.0
    assert text_score(METRICS["facts"], "Anabel from rome called about the oven. It is dark!", sample) == 0.5
    with pytest.raises(A2SFError, match="Sample 's7' has no facts for the metric facts; give it a column 'facts'"):
        text_score(METRICS["facts"], "x", Sample("s7", "", "", "y"))
