"""How much memory there is, and one sentence where it was not enough."""

from __future__ import annotations

import sys

import pytest
import torch

from a2sf_core.errors import A2SFError
from tuner.measuring.memory import Room, default_memory, enough_memory, room


def test_the_default_is_part_of_the_machine() -> None:
    assert 2**20 < default_memory([torch.device("cpu")]) < sys.maxsize


def test_the_fullest_device_says_what_all_may_hold() -> None:
    """Blocks are spread as the layers are: six on the first GPU, two on the second."""
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    free = {first: 6_000, second: 1_000}
    devices = [first] * 6 + [second] * 2
    assert room(100_000, devices, free.__getitem__) == Room(2_000, 98_000)  # the second takes 500, a quarter of it
    assert room(1_500, devices, free.__getitem__) == Room(1_500, 0)
    assert room(100_000, [first] * 8, free.__getitem__) == Room(3_000, 97_000)
    assert room(100_000, [torch.device("cpu")] * 8) == Room(100_000, 0)


def test_running_out_of_memory_is_one_sentence() -> None:
    with (
        pytest.raises(A2SFError, match="memory ran out while reading 3 prompts; lower --memory"),
        enough_memory("reading 3 prompts"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), enough_memory("reading 3 prompts"):
        torch.zeros(2) + torch.zeros(3)
