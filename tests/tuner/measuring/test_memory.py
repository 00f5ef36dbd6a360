"""How much memory there is, and one sentence where it was not enough."""

from __future__ import annotations

import sys

import pytest
import torch

from a2sf_core.errors import A2SFError
from tuner.measuring.memory import default_memory, enough_memory


def test_the_default_is_part_of_the_machine() -> None:
    assert 2**20 < default_memory("cpu") < sys.maxsize


def test_running_out_of_memory_is_one_sentence() -> None:
    with (
        pytest.raises(A2SFError, match="memory ran out while reading 3 prompts; lower --memory"),
        enough_memory("reading 3 prompts"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), enough_memory("reading 3 prompts"):
        torch.zeros(2) + torch.zeros(3)
