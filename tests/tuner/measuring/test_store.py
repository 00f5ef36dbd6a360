"""What does not fit the memory limit is read again, and nobody can tell by the figures."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest
import torch

from a2sf_core import A2SFError, Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import samples, tiny
from tuner.choices import parse_bytes
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.measuring.memory import Room, default_memory, enough_memory
from tuner.measuring.store import Block, Store, nbytes

POLICIES = [Policy.h2o(3, 0.4), Policy.tova(3, 0.2), Policy.uniform(3, rule=Decay(8.0), budget=(0.3, 0.6))]


def engine(memory: int | None = None) -> Engine:
    return Engine(tiny("llama"), samples(12), block_size=3, memory=memory)


def equal(left: Losses, right: Losses) -> bool:
    return all((getattr(left, field.name) == getattr(right, field.name)).all() for field in fields(Losses))


@pytest.mark.parametrize("share", [0.0, 0.6, 0.8, 1.5])
def test_figures_do_not_depend_on_the_limit(share: float) -> None:
    unlimited = engine()
    size = sum(nbytes(unlimited._store.load(block)) for block in range(4))
    limited = engine(max(1, int(share * size)))
    assert limited.recomputes == (share < 1)
    assert limited._store.n_stored in {0.0: [0], 1.5: [4]}.get(share, [1, 2, 3])
    found = zip(limited.race(POLICIES), unlimited.race(POLICIES), strict=True)
    assert all(equal(ours.losses, theirs.losses) for ours, theirs in found)


@pytest.mark.parametrize(
    ("device", "host", "on_device", "stored"),
    [(1, 0, 0, 0), (2, 0, 1, 1), (3, 0, 2, 2), (4, 0, 4, 4), (2, 2, 1, 3), (2, 9, 1, 4), (0, 9, 0, 4)],
)
def test_first_the_device_then_the_host_then_nowhere(device: int, host: int, on_device: int, stored: int) -> None:
    block = engine()._store.load(0)
    size, reads = nbytes(block), []

    def read(index: int) -> Block:
        reads.append(index)
        return block

    store = Store(read, 4, "cpu", Room(device * size, host * size))
    assert (len(store._on_device), store.n_stored, store.recomputes) == (on_device, stored, stored < 4)
    reads.clear()
    loaded = [store.load(index) for index in range(4)]
    assert reads == list(range(stored, 4))
    assert [batch.samples for batch in loaded[3]] == [batch.samples for batch in block]


def test_one_reading_serves_all_policies_that_wait() -> None:
    limited = engine(1)
    reads: list[int] = []
    read = limited._store._read

    def counted(index: int) -> Block:
        reads.append(index)
        return read(index)

    limited._store._read = counted
    limited.race(POLICIES)
    assert reads == [0, 1, 2, 3]
    limited.race(POLICIES)
    assert reads == [0, 1, 2, 3]


def test_bytes_are_those_of_the_tensors() -> None:
    small = Engine(tiny("llama"), samples(2, longest=13))
    (batch,) = small._store.load(0)
    cells = batch.mask.numel()
    # Three layers of two heads: keys and values of 8 floats, 27 orders of int16; mask and ids; the answers.
    own = cells * (3 * 2 * (2 * 8 * 4 + 27 * 2) + 1 + 8) + 2 * 8 + batch.first_logits.numel() * 4
    answers = batch.answers.numel() * 9 + int(batch.answer_valid.sum()) * (97 * 4 + 8)
    assert nbytes([batch]) == own + answers
    assert small.bytes_per_token == 3 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("64MiB", 2**26), ("123", 123)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "8 apples", "-1GB", "0", "GiB", "nan"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(A2SFError, match=r"--memory is .* expected a size above 0 such as 8GiB"):
        parse_bytes(text)


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
