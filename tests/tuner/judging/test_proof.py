"""Proof on samples that nobody has seen: a ladder in a fixed order, and all figures of what is exported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from a2sf_core.policy import Policy
from tests.tuner.conftest import Finished
from tuner.judging.choice import Estimate, Ladder
from tuner.judging.contest import Contest, Proposal
from tuner.judging.proof import climb
from tuner.judging.shape import Shape
from tuner.judging.verdict import Status
from tuner.measuring.engine import Engine
from tuner.search.baselines import BASELINES

H2O = Shape.of_baseline(BASELINES[0], 3)


def ladder(*budgets: float, around: float) -> Ladder:
    rungs = [Proposal.of(H2O, budget) for budget in budgets]
    return Ladder(Estimate(rungs[budgets.index(around)], around, 0.0), rungs)


def test_only_rungs_before_the_first_that_fails_count(contest: Contest) -> None:
    """Goals are set between what the rungs really lose, so that the first, the second or none of them holds."""
    rungs = ladder(0.9, 0.5, 0.1, around=0.5)
    lows = [contest.judge(rung).difference.low for rung in rungs.rungs]
    for goal in sorted({-low for low in lows if low <= 0} | {1000.0}):
        expected = None
        for rung, low in zip(rungs.rungs, lows, strict=True):
            if low < -goal:
                break
            expected = rung.label
        found, judged = climb(replace(contest, max_degradation=goal), rungs)
        if expected:
            assert found is not None
            assert (found.best.label, found.proven) == (expected, True)
            holds = sum(low >= -goal for low in lows[: len(judged)])
            assert len(judged) in (holds, holds + 1), "nothing is looked at after the first that fails"
    assert climb(contest, None) == (None, [])


def test_prompts_that_must_be_read_again_are_read_once_for_all_rungs(contest: Contest) -> None:
    model, reads = contest.engines[0].model, []
    bank = contest.engines[0].portion.bank.shared
    for budgets in ((0.95,), (0.95, 0.9, 0.85, 0.8)):
        engine = Engine(model, contest.engines[0].samples, bank=bank, memory=1)
        assert engine.recomputes
        longest = max(len(sample.prompt_ids) for sample in engine.samples)
        lengths: list[int] = []
        hook = model.register_forward_pre_hook(
            lambda _module, _args, given, to=lengths: to.append(given["attention_mask"].shape[1]), with_kwargs=True
        )
        rereading = replace(contest, engines=(engine,), max_degradation=100.0)
        _, judged = climb(rereading, ladder(*budgets, around=budgets[-1]))
        hook.remove()
        assert len(judged) == len(budgets), "every rung holds"
        reads.append(lengths.count(longest))
    assert reads[0] == reads[1] > 0


def test_without_proof_the_smallest_whose_mean_is_within_the_goal_is_promising(contest: Contest) -> None:
    rungs = ladder(0.95, 0.6, 0.3, 0.05, around=0.3)
    means = {rung.label: contest.judge(rung).difference.mean for rung in rungs.rungs}
    first = contest.judge(rungs.rungs[0]).difference
    assert first.low < 0, "or this shows nothing"
    goal = -first.low * 0.999
    found, judged = climb(replace(contest, max_degradation=goal), rungs)
    within = [rung.label for rung in rungs.rungs[:3] if means[rung.label] >= -goal]
    assert judged[0].label == "h2o at 95%"
    if within:
        assert found is not None
        assert (found.best.label, found.proven) == (within[-1], False)
    else:
        assert found is None


def test_what_is_exported_is_measured_on_the_report_split(finished: Finished) -> None:
    outcome = finished.result.outcome
    found = outcome.on_report
    assert found.n_samples == len(found.losses.nll) == outcome.power.n_samples == 9
    assert found.paired.n_contexts == 10, "and one that was not seen"
    assert outcome.verdict.status == Status.ADOPT
    assert outcome.exported in [each.best for each in (outcome.tuned, outcome.baseline) if each]
    assert outcome.around == outcome.exported.policy
    assert outcome.exported.difference.mean == pytest.approx(float(outcome.exported.differences.mean()))
    kept = float(np.dot(found.losses.cache_fraction, found.n_tokens) / found.n_tokens.sum())
    assert outcome.exported.cache_fraction == pytest.approx(kept)
    assert found.full_score == 1.0, "the references are its own texts"
    assert found.generated.exact_match.full_cache == 1.0
    assert 0 <= found.generated.identical_outputs <= 1
    shown = [text.full_cache == text.policy for text in found.generated.most_changed]
    assert len(shown) == 3
    assert shown == sorted(shown), "texts that differ come first"
    assert all(shown) == (found.generated.identical_outputs == 1)


def test_around_the_full_cache_alpha_is_fitted_where_it_has_a_meaning(finished: Finished) -> None:
    outcome = finished.result.outcome
    full = replace(outcome.exported, policy=Policy.full(2), cache_fraction=1.0)
    near = replace(full, policy=Policy.h2o(2, 0.5), cache_fraction=0.5)
    none = replace(outcome, verdict=replace(outcome.verdict, exported=full), closest=None)
    assert none.around == Policy.full(2)
    assert replace(none, closest=near).around == near.policy
