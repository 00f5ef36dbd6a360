"""Prompts held by real Ray actors: what they find is bit for bit what one process finds, also after one was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from studies.samples import bundled_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader
from tuner.measuring.actors import Actors, Held
from tuner.measuring.choosing import log_likelihoods
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder
from tuner.measuring.losses import Losses, Seen
from tuner.search.gradients import measure_fisher
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.profile_part import Part
from tuner.search.rereading import TwiceReader, measure_reconstruction
from tuner.settings import Settings
from tuner.watch import silent

pytestmark = pytest.mark.long
N_SAMPLES = 14
MODEL, TOKENIZER = load_model("reference", "cpu")
TASK = load_task("chat")
ENDS = Grader.of(TASK, MODEL, TOKENIZER).ends
FULL, SMALL = Policy.full(4), Policy.h2o(4, 0.1)
SAID: list[str] = []


def chats() -> list[Encoded]:
    assert TASK.samples is not None
    some = bundled_samples(TASK.samples, N_SAMPLES)
    return list(encode(some, TOKENIZER, TASK, max_tokens(MODEL, TOKENIZER)))


@pytest.fixture(scope="module")
def actors() -> Iterator[Actors]:
    found = Actors(Settings("chat", 1, device="cpu", ray="local", actors=2), MODEL, 3, SAID.append)
    yield found
    found.close()


def both(actors: Actors, **given: Any) -> tuple[Engine, Engine]:
    """One engine of this process, and one whose prompts the actors hold."""
    here, there = (Engine(MODEL, chats(), block_size=3, ends=ENDS, hold=hold, **given) for hold in (None, actors.hold))
    assert isinstance(there.holders, Held)
    return here, there


def check_equal(ours: Losses, theirs: Losses) -> None:
    for field, figures in vars(theirs).items():
        assert np.array_equal(getattr(ours, field), figures), field


def kill(actors: Actors, index: int) -> None:
    """As the kernel does when memory runs out."""
    os.kill(ray.get(actors.actors[index].start.remote()).process, signal.SIGKILL)


def test_losses_are_those_of_one_process_bit_for_bit(actors: Actors) -> None:
    told: list[tuple[int, int]] = []
    here, there = both(actors, progress=lambda *at: told.append(at))
    assert told[-1] == (2 * N_SAMPLES, 2 * N_SAMPLES)
    assert there.holders.count == 2
    assert there.bytes_per_token == here.bytes_per_token
    stepwise = Policy.h2o(4, 0.3, evict="step")
    for policy in (FULL, SMALL, stepwise):
        check_equal(there.evaluate(policy), here.evaluate(policy))
    check_equal(there.evaluate_directly(SMALL), here.evaluate_directly(SMALL))
    assert there.passes == here.passes
    texts = [sample.answer_ids for sample in here.samples]
    assert np.array_equal(log_likelihoods(there, SMALL, texts), log_likelihoods(here, SMALL, texts))
    assert there.own_texts(ENDS) == here.own_texts(ENDS)


def test_a_race_drops_the_same_policies_after_the_same_blocks(actors: Actors) -> None:
    policies = [Policy.h2o(4, share) for share in (0.05, 0.1, 0.4, 0.7)]

    def is_hopeless(_place: int, seen: Seen) -> bool:
        return bool(seen.losses.kl.mean() > 0.05)

    found, expected = (engine.race(policies, is_hopeless) for engine in both(actors))
    assert len({seen.n for seen in expected}) > 1, "some are dropped, and some are not"
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.rows, theirs.rows)
        check_equal(ours.losses, theirs.losses)


def test_profile_and_learned_rules_are_the_same(actors: Actors) -> None:
    engines = both(actors, learn_from=LEARNED_FROM)
    kept = [measure_reconstruction(TwiceReader.at(each), each.samples, [0, 4], 4096, Part(), silent).profile.kept
            for each in engines]  # fmt: skip
    assert np.array_equal(*kept)
    fisher = [measure_fisher(each, [0, 4, 7], (16.0, 64.0), 0, Part(), silent).losses for each in engines]
    assert np.array_equal(*fisher)
    told: list[tuple[int, int]] = []
    rules, same = (learned_rules(engine, range(9), lambda *at: told.append(at)) for engine in engines)
    assert rules == same
    assert told.count((5, 5)) >= 2
    in_nats, same = (learned_rules(engine, range(9), silent, drawn=0) for engine in engines)
    assert in_nats == same != rules
    for engine in engines:
        engine.learn(rules)
    learned = Policy(tuple(LayerPolicy(rule, 0.2, 0.25, 1) for rule in rules))
    check_equal(engines[1].evaluate(learned), engines[0].evaluate(learned))


def test_a_killed_actor_comes_back_and_nothing_changes(actors: Actors) -> None:
    SAID.clear()  # on a busy machine it was said that actors take long to start
    here, there = both(actors, learn_from=LEARNED_FROM)
    rules = learned_rules(here, range(9), silent)
    for engine in (here, there):
        engine.learn(rules)
    learned = Policy(tuple(LayerPolicy(rule, 0.2, 0.25, 1) for rule in rules))
    before = ray.get(actors.actors[1].start.remote()).process
    kill(actors, 1)
    check_equal(there.evaluate(learned), here.evaluate(learned))
    assert ray.get(actors.actors[1].start.remote()).process != before
    kill(actors, 0)
    check_equal(there.evaluate(SMALL), here.evaluate(SMALL))
    assert [said[: len("Ray actor 1 had died")] for said in SAID] == ["Ray actor 2 had died", "Ray actor 1 had died"]


def test_what_an_actor_refuses_is_said_in_its_own_sentence(actors: Actors) -> None:
    _, there = both(actors)
    with pytest.raises(A2SFError, match="memory ran out here"):
        there.everywhere(out_of_memory)


def out_of_memory(_holder: Holder) -> None:
    raise A2SFError("memory ran out here")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("model='./no-such', ray='local'", "./no-such"),
        ("ray='127.0.0.1:1'", "no Ray cluster at --ray 127.0.0.1:1"),
    ],
)
def test_actors_that_cannot_be_are_said(given: str, sentence: str) -> None:
    """In a program of its own: a program has one Ray."""
    code = f"""
from tuner.inputs.models import load_model
from tuner.measuring.actors import Actors
from tuner.settings import Settings
Actors(Settings("chat", 1, actors=1, device="cpu", {given}), load_model("reference", "cpu")[0], 3, print)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert "A2SFError: " in done.stderr
    assert sentence in done.stderr
