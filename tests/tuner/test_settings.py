"""Where a run lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.settings import Settings


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("reference", "chat-reference"),
        ("./models/my model", "chat-my-model"),
        ("owner/model-1.5_b", "chat-model-1.5_b"),
        ("/", "chat--"),
    ],
)
def test_the_folder_is_named_after_task_and_model(model: str, folder: str) -> None:
    assert Settings("any", 1, model=model).folder("chat") == Path("runs") / folder


def test_a_folder_that_was_asked_for_is_taken() -> None:
    assert Settings("any", 1, out=Path("there")).folder("chat") == Path("there")
