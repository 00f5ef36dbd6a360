"""What does not fit the memory limit is read again, and nobody can tell by the figures."""

from __future__ import annotations

import gc
import weakref
from dataclasses import fields

import pytest
import torch

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import holder_of, samples, tiny
from tuner.measuring.batch import Places
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.measuring.memory import Room
from tuner.measuring.store import Block, Store, nbytes

POLICIES = [Policy.h2o(3, 0.4), Policy.tova(3, 0.2), Policy.uniform(3, rule=Decay(8.0), budget=(0.3, 0.6))]


def engine(memory: int | None = None) -> Engine:
    return Engine(tiny("llama"), samples(12), block_size=3, memory=memory)


def equal(left: Losses, right: Losses) -> bool:
    return all((getattr(left, field.name) == getattr(right, field.name)).all() for field in fields(Losses))


@pytest.mark.parametrize("share", [0.0, 0.6, 0.8, 1.5])
def test_figures_do_not_depend_on_the_limit(share: float) -> None:
    unlimited = engine()
    size = sum(nbytes(holder_of(unlimited).load(block)) for block in range(4))
    limited = engine(max(1, int(share * size)))
    assert limited.recomputes == (share < 1)
    assert limited.held <= max(1, share * size)
    assert unlimited.held == size
    assert holder_of(limited)._store.n_stored in {0.0: [0], 1.5: [4]}.get(share, [1, 2, 3])
    found = zip(limited.race(POLICIES), unlimited.race(POLICIES), strict=True)
    assert all(equal(ours.losses, theirs.losses) for ours, theirs in found)


@pytest.mark.parametrize(
    ("device", "host", "on_device", "stored"),
    [(1, 0, 0, 0), (2, 0, 1, 1), (3, 0, 2, 2), (4, 0, 4, 4), (2, 2, 1, 3), (2, 9, 1, 4), (0, 9, 0, 4)],
)
def test_first_the_device_then_the_host_then_nowhere(device: int, host: int, on_device: int, stored: int) -> None:
    block = holder_of(engine()).load(0)
    size, reads = nbytes(block), []

    def read(index: int) -> Block:
        reads.append(index)
        return block

    store = Store(read, 4, Room(device * size, host * size))
    assert (len(store._on_device), store.n_stored, store.recomputes) == (on_device, stored, stored < 4)
    assert store.held <= stored * size
    assert bool(store.held) == bool(stored)
    reads.clear()
    loaded = [store.load(index) for index in range(4)]
    assert reads == list(range(stored, 4))
    assert [batch.samples for batch in loaded[3]] == [batch.samples for batch in block]


def test_a_block_comes_back_from_the_host_to_where_each_of_its_layers_was() -> None:
    """The meta device stands for a second GPU, which no machine of ours has: nothing is computed there."""
    (block,) = holder_of(engine()).load(0)
    elsewhere = Places(torch.device("cpu"), (torch.device("cpu"), torch.device("meta"), torch.device("meta")))
    moved = block.to(elsewhere)
    assert moved.places == elsewhere
    assert moved.texts[0].ids.device.type == moved.held.device.type == "cpu"
    assert block.to(block.places.on_host).places == block.places
    on_host = [batch.to(batch.places.on_host) for batch in [block]]
    store = Store(lambda _: on_host, 2, Room(0, 9 * nbytes(on_host)))
    store._places = elsewhere
    assert [batch.places for index in range(2) for batch in store.load(index)] == [elsewhere] * 2


def test_one_reading_serves_all_policies_that_wait() -> None:
    limited = engine(1)
    reads: list[int] = []
    read = holder_of(limited)._store._read

    def counted(index: int) -> Block:
        reads.append(index)
        return read(index)

    holder_of(limited)._store._read = counted
    limited.race(POLICIES)
    assert reads == [0, 1, 2, 3]
    limited.race(POLICIES)
    assert reads == [0, 1, 2, 3]


def test_bytes_are_those_of_the_tensors() -> None:
    small = Engine(tiny("llama"), samples(2, longest=13))
    (batch,) = holder_of(small).load(0)
    cells = batch.mask.numel()
    # Three layers of two heads: keys and values of 8 floats, 27 orders of int16; mask and ids; the answers.
    own = cells * (3 * 2 * (2 * 8 * 4 + 27 * 2) + 1 + 8) + 2 * 2 * 8 + batch.first_logits.numel() * 4
    (text,) = batch.texts
    answers = text.ids.numel() * 9 + int(text.valid.sum()) * (97 * 4 + 8)
    answers += (2 * 97 + text.full.states.shape[1] * 2 * 32) * 4  # to make the log-probabilities again
    assert nbytes([batch]) == own + answers
    assert small.bytes_per_token == 3 * 2 * 2 * 8 * 4


def test_an_engine_that_nobody_holds_is_let_go_of_at_once() -> None:
    """Gigabytes of prompts would wait for a collector that counts objects, of which they are few."""
    gc.disable()
    try:
        engine = Engine(tiny("llama"), samples(4))
        engine.evaluate(Policy.full(engine.n_layers))
        held = weakref.ref(engine), weakref.ref(holder_of(engine))
        del engine
        assert [each() for each in held] == [None, None]
    finally:
        gc.enable()
