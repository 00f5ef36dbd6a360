"""Whatever runs beside it, a text is the one that the attached model writes alone; memory is never exceeded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from a2sf_core import A2SFError, Policy, attach
from a2sf_core.serve.cost import CacheCost, held_bytes
from a2sf_core.serve.engine import Busy, Engine
from a2sf_core.serve.job import Ended, Event, Failed, Job, Piece
from a2sf_core.serve.sampling import Sampling
from a2sf_core.serve.served import Configs, Served

from .conftest import POLICY
from .offline import written_text

MOST = 24
SAMPLED = [Sampling(), Sampling(1.0, 1.0, 7), Sampling(0.7, 0.9, 11), Sampling(1.3, 1.0, 2**40)]


@contextmanager
def serving(reference: tuple[Any, Any], policy: Policy = POLICY, **options: Any) -> Iterator[Engine]:
    model, tokenizer = reference
    with attach(policy, model):
        engine = Engine(model, tokenizer, Configs(Served(policy)), **{"ends": [2], **options})
        try:
            yield engine
        finally:
            engine.close()


def answer(told: SimpleQueue[Event]) -> tuple[str, Event]:
    """The whole text and the last event."""
    text = ""
    while True:
        event = told.get(timeout=300)
        if not isinstance(event, Piece):
            return text, event
        text += event.text


def asked(engine: Engine, ids: list[int], most: int = MOST, **job: Any) -> Callable[[], tuple[str, Event]]:
    told: SimpleQueue[Event] = SimpleQueue()
    engine.submit(Job(tuple(ids), most, told.put, **job))
    return lambda: answer(told)


def value(engine: Engine, name: str, **labels: str) -> float:
    """One figure of /metrics."""
    found = engine.metrics.registry.get_sample_value(f"a2sf_{name}", labels)
    assert found is not None, name
    return found


@pytest.mark.parametrize("piece", [4096, 32])
@pytest.mark.parametrize("sampling", SAMPLED, ids=str)
def test_eight_together_write_what_each_writes_alone(
    reference: tuple[Any, Any], prompts: list[str], sampling: Sampling, piece: int
) -> None:
    model, tokenizer = reference
    how = {} if not sampling.temperature else vars(sampling)
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    alone = [written_text((model, tokenizer), POLICY, ids, MOST, **how) for ids in encoded]
    with serving(reference, piece=piece) as engine:
        answers = [each() for each in [asked(engine, ids, sampling=sampling) for ids in encoded]]
    assert [text for text, _ in answers] == alone
    assert len(set(alone)) > 4


@pytest.mark.parametrize(
    "policy",
    [
        Policy.full(4),
        Policy.h2o(4, 0.3, evict="chunk=16", decode_every=4),
        Policy.a2sf(4, 24, 0.9, evict="step"),
        POLICY,
    ],
    ids=["full", "chunks", "step", "mixed"],
)
def test_a_cache_is_never_larger_than_was_known_before(
    reference: tuple[Any, Any], prompts: list[str], policy: Policy
) -> None:
    model, tokenizer = reference
    ids = tokenizer(max(prompts, key=len), return_tensors="pt").input_ids
    cost = CacheCost.of(model, policy)
    n, new = ids.shape[1], 12
    with attach(policy, model), torch.no_grad():
        output = model(ids)
        cache = output.cache if "cache" in output else output.past_key_values
        assert held_bytes(cache) <= cost.reading(n)
        for layer in cache.layers:
            layer.cut()
            layer.seal()
        most = held_bytes(cache)
        for _ in range(new):
            model(torch.tensor([[5]]), cache=cache)
            most = max(most, held_bytes(cache))
    assert most <= cost.holding(n, new) <= 1.1 * most + 100
    assert cost.holding(n, new) <= CacheCost.of(model, Policy.full(4)).holding(n, new)


def test_under_one_memory_the_policy_holds_more_rows_and_neither_exceeds_it(
    reference: tuple[Any, Any], prompts: list[str]
) -> None:
    ids = reference[1](max(prompts, key=len)).input_ids
    memory = 6 * CacheCost.of(reference[0], Policy.full(4)).holding(len(ids), MOST)
    most_rows = {}
    for name, policy in {"full": Policy.full(4), "tuned": Policy.h2o(4, 0.25)}.items():
        seen: list[tuple[float, ...]] = []
        with serving(reference, policy, memory=memory, ends=()) as engine:

            def look(_: Event, engine: Engine = engine, seen: Any = seen) -> None:
                running, reserved = (value(engine, each) for each in ("running", "cache_reserved_bytes"))
                seen.append((running, value(engine, "cache_bytes", config="stable"), reserved))

            jobs = [Job(tuple(ids), MOST, look) for _ in range(24)]
            for job in jobs:
                engine.submit(job)
            assert isinstance(asked(engine, ids)()[1], Ended)  # in the order in which they came
        assert all(held <= reserved <= memory for _, held, reserved in seen)
        most_rows[name] = max(rows for rows, *_ in seen)
    assert 1 < most_rows["full"] <= 6
    assert most_rows["tuned"] >= 2 * most_rows["full"]


def test_what_can_never_fit_is_refused_and_too_many_are_turned_away(reference: tuple[Any, Any]) -> None:
    with serving(reference, memory=200_000, most_waiting=1, most_rows=1) as engine:
        with pytest.raises(A2SFError, match=r"need .* MiB of cache, and the server has 0\.2 MiB"):
            asked(engine, [5] * 500)
        with pytest.raises(Busy):  # noqa: PT012 - the first ones may have begun already
            for _ in range(40):
                asked(engine, [5] * 20, 60)


def test_a_cancelled_row_leaves_and_the_others_stay_right(reference: tuple[Any, Any], prompts: list[str]) -> None:
    model, tokenizer = reference
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    with serving(reference) as engine:
        began = threading.Event()
        lost = Job(tuple(encoded[0]), 1500, lambda event: began.set(), sampling=Sampling(1.0, 1.0, 3))
        engine.submit(lost)
        stays = [asked(engine, ids) for ids in encoded[1:4]]
        assert began.wait(300)
        engine.cancel(lost)
        texts = [each()[0] for each in stays]
        asked(engine, [5, 6], 1)()  # a step later
        assert engine.held_bytes() == 0
        assert value(engine, "requests_total", config="stable", outcome="cancelled") == 1
    expected = [written_text((model, tokenizer), POLICY, ids, MOST) for ids in encoded[1:4]]
    assert texts == expected


def test_late_ones_fail_and_closing_lets_the_others_end(reference: tuple[Any, Any], prompts: list[str]) -> None:
    ids = reference[1](prompts[0]).input_ids
    with serving(reference) as engine:
        assert asked(engine, ids, seconds=0.0)() == ("", Failed("timeout"))
        ends = asked(engine, ids)
        engine.close(60)
        assert isinstance(ends()[1], Ended)
        with pytest.raises(Busy):
            asked(engine, ids)


def test_a_fault_ends_one_request_and_not_the_engine(reference: tuple[Any, Any], prompts: list[str]) -> None:
    ids = reference[1](prompts[0]).input_ids
    with serving(reference) as engine:
        assert asked(engine, [10**6])()[1] == Failed("error")  # a token that the model does not have
        assert isinstance(asked(engine, ids)()[1], Ended)
        assert engine.is_alive


def test_what_it_says_at_the_end_is_what_the_cache_held(reference: tuple[Any, Any], prompts: list[str]) -> None:
    ids = reference[1](max(prompts, key=len)).input_ids
    with serving(reference, Policy.h2o(4, 0.25)) as engine:
        _, end = asked(engine, ids, 8)()
        assert isinstance(end, Ended)
        assert (end.prompt, end.full) == (len(ids), len(ids) + end.written - 1)
        assert abs(end.kept - (0.25 * len(ids) + end.written - 1)) <= 1
