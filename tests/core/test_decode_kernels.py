"""The Triton kernels against the plain operations, through the Triton interpreter."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from a2sf_core import slots as plain
from a2sf_core.slots import Ring, Slots

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported
pytest.importorskip("triton")
kernels: Any = pytest.importorskip("a2sf_core.kernels.decode")

NOW = 500


def filled(group: int, capacity: int, dim: int, ring: int, seed: int = 0) -> Slots:
    """Random slots of two rows and two KV heads with holes in random places, and an empty ring."""
    draw = torch.Generator().manual_seed(seed)
    shape = (2, 2, capacity)
    positions = torch.rand(*shape, generator=draw).argsort(-1).add(NOW - capacity).int()
    positions[torch.rand(*shape, generator=draw) < 0.3] = -1
    positions[..., 5], positions[..., capacity - 3] = -1, -1
    free = torch.tensor([5, capacity - 3]).repeat(2, 2, 1)
    free[1] = free[1].flip(-1)
    return Slots(
        keys=torch.randn(*shape, dim, generator=draw),
        values=torch.randn(*shape, dim, generator=draw),
        positions=positions,
        free=free,
        scores=torch.rand(*shape, generator=draw).masked_fill_(positions < 0, 0),
        ring=Ring(
            torch.zeros(2, 2 * group, ring, dim),
            torch.zeros(2, 2 * group, ring),
            torch.full((2, ring), -1, dtype=torch.int32),
        ),
        now=torch.tensor([NOW]),
        turn=torch.tensor([0]),
    )


def twin(slots: Slots) -> Slots:
    """A copy that shares nothing."""
    assert slots.ring is not None and slots.scores is not None
    ring = Ring(slots.ring.queries.clone(), slots.ring.lse.clone(), slots.ring.positions.clone())
    copies = {name: getattr(slots, name).clone() for name in ("keys", "values", "positions", "scores", "now", "turn")}
    return replace(slots, ring=ring, **copies)


def same(a: Slots, b: Slots) -> None:
    assert a.ring is not None and b.ring is not None
    for name in ("keys", "values", "positions", "scores"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-5)
    for name in ("queries", "lse", "positions"):
        torch.testing.assert_close(getattr(a.ring, name), getattr(b.ring, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sliding_window", [None, 40])
@pytest.mark.parametrize(
    ("group", "capacity", "dim", "ring", "alpha"),
    [(4, 200, 32, 3, 0.9), (1, 70, 24, 17, 0.0), (7, 64, 80, 2, 1.0)],
    ids=["grouped", "one query head, odd head size", "seven query heads"],
)
def test_two_tokens_and_a_fold(
    group: int, capacity: int, dim: int, ring: int, alpha: float, sliding_window: int | None
) -> None:
    mine = filled(group, capacity, dim, ring)
    theirs = twin(mine)
    draw = torch.Generator().manual_seed(1)
    for turn in range(2):
        query = torch.randn(2, 2 * group, 1, dim, generator=draw)
        key, value = torch.randn(2, 2, 2, 1, dim, generator=draw)
        got = kernels.attend(mine, query, key, value, dim**-0.5, sliding_window)
        wanted = plain.attend(theirs, query, key, value, dim**-0.5, sliding_window)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        same(mine, theirs)
        for slots in (mine, theirs):
            slots.now += 1
            slots.turn.fill_(turn + 1)
    kernels.fold(mine, alpha, dim**-0.5, sliding_window)
    plain.fold(theirs, alpha, dim**-0.5, sliding_window)
    same(mine, theirs)


def test_what_lies_in_empty_slots_does_not_count() -> None:
    slots = filled(2, 100, 16, 2)
    clean = twin(slots)
    slots.values[slots.positions < 0] = 1e30
    query, key, value = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
    got = kernels.attend(slots, query, key, value, 0.25, None)
    torch.testing.assert_close(got, plain.attend(clean, query, key, value, 0.25, None), atol=1e-5, rtol=1e-5)


def test_without_a_ring() -> None:
    slots = replace(filled(2, 100, 16, 2), ring=None)
    query, key, value = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
    got = kernels.attend(replace(slots, positions=slots.positions.clone()), query, key, value, 0.25, None)
    torch.testing.assert_close(got, plain.attend(slots, query, key, value, 0.25, None), atol=1e-5, rtol=1e-5)
