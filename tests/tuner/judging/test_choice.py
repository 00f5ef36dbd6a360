"""The choice among many: a ladder of caches that all meet the goal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.tuner.models import samples, tiny
from tuner.judging.choice import choose
from tuner.judging.contest import Contest
from tuner.measuring.engine import Engine
from tuner.search.space import Space
from tuner.search.study import Plan, Study


def test_a_choice_is_a_ladder_that_ends_with_the_smallest(contest: Contest, tmp_path: Path) -> None:
    space = Space("bump", False, 3)
    search = Engine(tiny("llama"), samples(16), block_size=8, bank=space.bank)
    study = Study(tmp_path, {"model": "m"}, seed=0)
    study.run(search, space, Plan(40), lambda _done: None)
    choice = choose(replace(contest, max_degradation=8.0), space, study.records())
    assert choice.picked
    assert choice.known
    assert 0.95 <= choice.confidence < 1
    for ladder in (choice.picked, choice.known):
        sizes = [candidate.cache_fraction for candidate in ladder]
        assert sizes == sorted(sizes, reverse=True)
        assert all(candidate.meets(8.0) for candidate in ladder)
