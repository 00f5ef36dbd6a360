"""A contest that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.tuner.models import samples, tiny
from tuner.judging.contest import Contest
from tuner.judging.grading import Grader
from tuner.measuring.engine import Engine
from tuner.search.space import Space


@pytest.fixture(scope="session")
def contest() -> Contest:
    """A random model right about one token in 97, so the goal is set by what pruning changes at all."""
    model = tiny("llama")
    engine = Engine(model, samples(40), block_size=10, bank=Space("bump", False, 3).bank)
    return Contest((engine,), Grader("token_accuracy", model, None, 1), 1.0, seed=0)
