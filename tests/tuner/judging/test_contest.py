"""What every contender is held to: the same samples, paired with the full cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from a2sf_core.policy import Policy
from tests.tuner.models import samples, tiny
from tuner.judging.contest import Contest, Proposal
from tuner.judging.shape import Shape
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINES
from tuner.search.space import Space

H2O = Shape.of_baseline(BASELINES[0], 3)


def test_a_candidate_is_judged_against_the_full_cache_on_the_same_samples(contest: Contest) -> None:
    (engine,) = contest.engines
    judged = contest.judge(Proposal.of(H2O, 0.3))
    policy = H2O.at(0.3)
    expected = 100 * (engine.evaluate(policy).accuracy - engine.evaluate(Policy.full(3)).accuracy)
    assert (judged.differences == expected).all()
    assert judged.difference.mean == pytest.approx(float(expected.mean()))
    assert judged.difference.low <= judged.difference.mean <= judged.difference.high
    assert (judged.label, judged.method) == ("h2o at 30%", "h2o")
    full = contest.judge(Proposal("full cache", Policy.full(3)))
    assert full.difference.to_list() == [0, 0, 0], "the full cache against itself is certain"


def test_several_splits_count_as_one(contest: Contest) -> None:
    (engine,) = contest.engines
    halves = tuple(
        Engine(engine.model, part, bank=engine.portion.bank.shared) for part in (samples(40)[:15], samples(40)[15:])
    )
    both, whole = (each.look(H2O.at(0.2)) for each in (replace(contest, engines=halves), contest))
    assert both.kl == pytest.approx(whole.kl, rel=1e-4)
    assert sorted(both.paired.sums) == pytest.approx(sorted(whole.paired.sums))
    assert both.paired.n_contexts == 40
    alone = [replace(contest, engines=(half,)).kl(H2O.at(0.2)) for half in halves]
    assert replace(contest, engines=halves).largest_kl(H2O.at(0.2)) == max(alone) > both.kl


def test_samples_on_one_context_are_drawn_together(contest: Contest) -> None:
    (engine,) = contest.engines
    pairs = [replace(each, context_key=f"c{place // 2}") for place, each in enumerate(engine.samples)]
    shared = replace(contest, engines=(Engine(engine.model, pairs, bank=engine.portion.bank.shared),))
    assert len(np.unique(shared.contexts)) == 20
    assert shared.look(H2O.at(0.2)).paired.n_contexts == 20


def test_a_kl_beyond_the_most_allowed_is_known_from_fewer_samples(contest: Contest) -> None:
    policy = H2O.at(0.05)
    engine = Engine(tiny("llama"), samples(40), block_size=10, bank=Space("bump", False, 3).bank)
    fresh = replace(contest, engines=(engine,))
    whole = contest.largest_kl(policy)
    assert fresh.largest_kl(policy, whole / 8) > whole / 8
    assert engine.passes < engine.n_blocks
    assert fresh.largest_kl(policy, whole * 1.01) == pytest.approx(whole)


def test_beside_a_rival_fewer_samples_show_that_a_kl_is_beyond_the_most_allowed(contest: Contest) -> None:
    policy, rival, most = H2O.at(0.05), H2O.at(0.8), 0.6 * contest.largest_kl(H2O.at(0.05))
    assert contest.largest_kl(rival) < most
    bank, passes = Space("bump", False, 3).bank, []
    for beside in (None, rival):
        engine = Engine(tiny("llama"), samples(40), block_size=5, bank=bank)
        fresh = replace(contest, engines=(engine,))
        fresh.largest_kl(rival)
        before = engine.passes
        assert fresh.largest_kl(policy, most, beside) > most
        passes.append(engine.passes - before)
    assert passes[1] < passes[0] < engine.n_blocks
    least = 1.01 * contest.largest_kl(policy)
    assert fresh.largest_kl(policy, least, rival) == pytest.approx(contest.largest_kl(policy)), "else all are measured"
