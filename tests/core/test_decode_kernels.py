"""The Triton kernels against the plain operations, in the Triton interpreter, or on a GPU if pytest may see one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from a2sf_core.layers import slot_part
from a2sf_core.plain import slots as plain
from a2sf_core.plain.slots import Ring, Slots

from . import models
from .test_decode import POLICIES, check, check_compiled

pytest.importorskip("triton")
kernels: Any = pytest.importorskip("a2sf_core.kernels.decode")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NOW = 500


@pytest.fixture(autouse=True, scope="module")
def _on_the_device() -> Iterator[None]:
    """Tensors and models are made where the kernels run."""
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)


def filled(group: int, capacity: int, dim: int, ring: int, seed: int = 0) -> Slots:
    """Random slots of two rows and two KV heads with holes in random places, and an empty ring."""
    draw = torch.Generator(DEVICE).manual_seed(seed)
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
        scores=tuple(torch.rand(*shape, generator=draw).masked_fill_(positions < 0, 0) for _ in range(2)),
        ring=Ring(
            torch.zeros(2, 2 * group, ring, dim),
            torch.zeros(2, 2 * group, ring),
            torch.full((2, ring), -1, dtype=torch.int32),
        ),
        filled=capacity,
        now=torch.tensor([NOW]),
        turn=torch.tensor([0]),
    )


def twin(slots: Slots) -> Slots:
    """A copy that shares nothing."""
    assert slots.ring is not None
    ring = Ring(slots.ring.queries.clone(), slots.ring.lse.clone(), slots.ring.positions.clone())
    copies = {name: getattr(slots, name).clone() for name in ("keys", "values", "positions", "now", "turn")}
    return replace(slots, ring=ring, scores=tuple(each.clone() for each in slots.scores), **copies)


def same(a: Slots, b: Slots) -> None:
    assert a.ring is not None
    assert b.ring is not None
    torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-5)
    for name in ("keys", "values", "positions"):
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
    draw = torch.Generator(DEVICE).manual_seed(1)
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
    kernels.fold(mine, [alpha, 0.5], dim**-0.5, sliding_window)
    plain.fold(theirs, [alpha, 0.5], dim**-0.5, sliding_window)
    same(mine, theirs)


def test_half_precision() -> None:
    """In float16, as the interpreter multiplies the bit patterns of bfloat16 numbers."""
    exact = filled(4, 200, 32, 3)
    assert exact.ring is not None
    half = twin(exact)
    half = replace(half, keys=half.keys.half(), values=half.values.half())
    half.ring = Ring(exact.ring.queries.half(), exact.ring.lse.clone(), exact.ring.positions.clone())
    exact = replace(exact, keys=half.keys.float(), values=half.values.float())
    query, key, value = torch.randn(2, 8, 1, 32).half(), *torch.randn(2, 2, 2, 1, 32).half()
    got = kernels.attend(half, query, key, value, 0.2, None)
    wanted = plain.attend(exact, query.float(), key.float(), value.float(), 0.2, None)
    assert got.dtype == torch.float16
    assert (got - wanted).norm() < 1e-3 * wanted.norm()
    for slots in (half, exact):
        slots.now += 1
    kernels.fold(half, [0.9, 0.5], 0.2, None)
    plain.fold(exact, [0.9, 0.5], 0.2, None)
    torch.testing.assert_close(half.scores, exact.scores, atol=1e-3, rtol=0)


def test_what_lies_in_empty_slots_does_not_count() -> None:
    slots = filled(2, 100, 16, 2)
    clean = twin(slots)
    slots.values[slots.positions < 0] = 1e30
    query, key, value = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
    got = kernels.attend(slots, query, key, value, 0.25, None)
    torch.testing.assert_close(got, plain.attend(clean, query, key, value, 0.25, None), atol=1e-5, rtol=1e-5)


def test_room_for_tokens_to_come_is_not_read() -> None:
    slots = filled(2, 200, 16, 2)
    slots.positions[:, :, 130:] = -1
    slots = replace(slots, free=torch.arange(130, 140).repeat(2, 2, 1), filled=130)
    clean = twin(slots)
    slots.values[:, :, 135:] = float("nan")
    for turn in range(5):
        query, key, value = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
        got = kernels.attend(slots, query, key, value, 0.25, None)
        torch.testing.assert_close(got, plain.attend(clean, query, key, value, 0.25, None), atol=1e-5, rtol=1e-5)
        for each in (slots, clean):
            each.now += 1
            each.turn.fill_(turn + 1)


def test_without_a_ring() -> None:
    slots = replace(filled(2, 100, 16, 2), ring=None)
    query, key, value = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
    got = kernels.attend(replace(slots, positions=slots.positions.clone()), query, key, value, 0.25, None)
    torch.testing.assert_close(got, plain.attend(slots, query, key, value, 0.25, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral-sliding"])
def test_a_whole_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_part, "_operations", lambda *_: kernels)
    check(models.build(family), POLICIES["every 4"], left=6, steps=5)


def test_torch_compile_takes_the_kernels_as_they_are(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_part, "_operations", lambda *_: kernels)
    torch._dynamo.reset()
    check_compiled(llama, steps=5)


_COMPILE = """
import a2sf_core.kernels.slot_kernels as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
ARGUMENTS = {
    "attend_kernel": ("new_key new_value keys values query", dict(SPLITS=3, WINDOW=0, GROUP=16, DIM=128, BLOCK=64)),
    "join_kernel": ("query output ring_queries", dict(RING=32, SPLITS=4, DIM=128)),
    "fold_kernel": ("queries keys", dict(GROUP=4, WINDOW=0, RING=32, DIM=128, BLOCK=64)),
}
WORDS = {"scale": "fp32", "positions": "*i32", "ring_positions": "*i32", "query_positions": "*i32"}
WORDS |= dict.fromkeys(["free", "now", "turn"], "*i64")
WORDS |= dict.fromkeys("group capacity n_free dim filled heads splits kv_heads size".split(), "i32")
for name, (halves, constants) in ARGUMENTS.items():
    kernel = getattr(kernels, name)
    types = {n: "constexpr" if n in constants else WORDS.get(n, "*fp32") for n in kernel.arg_names}
    types |= dict.fromkeys(halves.split(), "*bf16")
    place = kernel.arg_names.index
    aligned = {(place(n),): [["tt.divisibility", 16]] for n in types if types[n][0] == "*" or n == "dim"}
    source = ASTSource(kernel, types, {(place(n),): value for n, value in constants.items()}, aligned)
    made = compile(source, target=GPUTarget("cuda", 90, 32))
    text = made.asm["ptx"]
    assert len(made.asm["cubin"]) > 1000
    print(name, made.metadata.shared, text.count(".local"), "cp.async.cg.shared.global" in text)
"""


def test_machine_code_for_hopper() -> None:
    """No GPU is needed to compile: nothing spills, keys come 16 bytes at a time, three programs fit."""
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", _COMPILE], capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    made = {name: rest for name, *rest in map(str.split, done.stdout.splitlines())}
    assert set(made) == {"attend_kernel", "join_kernel", "fold_kernel"}
    assert all(local == "0" for _, local, _ in made.values())
    assert 3 * (int(made["attend_kernel"][0]) + 1024) <= 228 * 1024
    assert made["attend_kernel"][2] == made["fold_kernel"][2] == "True"
