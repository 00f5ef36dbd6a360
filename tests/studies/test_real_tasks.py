"""The tasks for real models: through the chat template, with samples of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.samples import bundled_samples
from tuner.inputs.tasks import load_task

TASKS = sorted((Path(__file__).parent.parent.parent / "studies" / "real").glob("*.yaml"))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_for_real_models_is_a_chat_and_has_samples(path: Path) -> None:
    task = load_task(str(path))
    assert task.chat_template == "auto"
    assert task.samples is not None
    assert len(bundled_samples(task.samples, 4)) == 4


def test_make_tune_real_names_one_of_them() -> None:
    makefile = (Path(__file__).parent.parent.parent / "Makefile").read_text(encoding="utf-8")
    assert any(f"REAL_TASK ?= studies/real/{path.name}\n" in makefile for path in TASKS)
