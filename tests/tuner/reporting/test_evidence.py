"""The evidence is what was measured, complete, and as it is written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.tuner.conftest import Finished
from tuner.judging.intervals import Interval, Paired
from tuner.reporting.evidence import NICE_POINTS, SampleCounts, cache_bytes, gather, shares_by_length
from tuner.search.records import TrialRecord

COUNTS = SampleCounts(6, 3, 5, 0, 1)


def test_the_json_has_its_names_in_their_order(finished: Finished) -> None:
    """An auditor's script reads these."""
    written = json.loads(json.dumps(finished.result.evidence.to_dict()))
    assert list(written) == [
        "status", "verdict", "power", "goal_points", "metric", "cut", "policy_from", "quality", "cache",
        "dropped_tokens", "best_baseline", "choice", "precision", "samples", "trials", "warm_start", "study",
        "mlflow_run_id",
    ]  # fmt: skip
    assert list(written["quality"]) == [
        "full_cache", "difference_points", "token_accuracy_full_cache", "token_accuracy_policy", "nll_increase_nats",
        "confidence",
    ]  # fmt: skip
    assert list(written["cache"]) == ["fraction", "bytes_per_prompt_full", "bytes_per_prompt_kept", "by_length"]
    generated = written["dropped_tokens"]["generated"]
    assert list(generated) == ["exact_match", "identical_outputs", "most_changed"]
    assert [list(text) for text in generated["most_changed"]] == [["id", "full_cache", "policy"]] * 3
    assert list(written["best_baseline"]) == ["label", "cache_fraction", "difference_points", "proven"]
    assert written["quality"]["confidence"] == 0.95
    assert list(written["study"])[-2:] == ["model_name", "data_source"]


def test_bytes_are_those_of_the_prompts(finished: Finished) -> None:
    found = finished.result.outcome.on_report
    full, kept = cache_bytes(found)
    assert found.bytes_per_token == 4 * 2 * 2 * 32 * 4  # layers, KV heads, keys and values, dimensions, float32
    assert full == int(found.n_tokens.mean() * found.bytes_per_token)
    assert kept / full == pytest.approx(finished.result.evidence.cache.fraction, rel=1e-3)
    for place, (n, share) in zip(
        (found.n_tokens.argmin(), found.n_tokens.argmax()), shares_by_length(found), strict=True
    ):
        assert [n, share] == [found.n_tokens[place], found.losses.cache_fraction[place]]


def test_the_next_precision_is_a_round_one_and_at_least_twice_as_fine(finished: Finished) -> None:
    outcome = finished.result.outcome
    for spread in (0.01, 1.0, 40.0):
        wide = np.tile([-spread, spread], 3)
        changed = replace(outcome, on_report=replace(outcome.on_report, paired=Paired.of(wide)))
        precision = gather(changed, [], COUNTS, {}, "run").precision
        assert precision.half_width_points == pytest.approx(1.96 * spread / np.sqrt(9))
        assert precision.finer_points in NICE_POINTS
        assert precision.finer_points == NICE_POINTS[-1] or precision.finer_points <= precision.half_width_points / 2
        assert precision.samples_for_finer == pytest.approx((1.96 * spread / precision.finer_points) ** 2, abs=1)


def test_without_a_baseline_or_a_pick_it_says_so(finished: Finished) -> None:
    outcome = finished.result.outcome
    empty = replace(outcome, baseline=None, choice=replace(outcome.choice, picked=None))
    trials = [TrialRecord(n, state, "search", {}, {}, "{}") for n, state in enumerate(("failed", "pruned", "pruned"))]
    found = gather(empty, trials, COUNTS, {}, "run")
    assert found.best_baseline is None
    assert found.choice.expected_difference_points is None
    assert found.trials == {"complete": 0, "pruned": 2, "failed": 1}
    assert "report_baseline_cache_fraction" not in found.metrics()


def test_mlflow_gets_the_figures_of_the_report_split(finished: Finished) -> None:
    evidence = finished.result.evidence
    metrics = evidence.metrics()
    interval = Interval(*evidence.quality.difference_points)
    assert metrics["report_difference_low"] == interval.low <= metrics["report_difference_points"] <= interval.high
    assert metrics["report_cache_fraction"] == evidence.cache.fraction
    assert evidence.best_baseline is not None
    assert metrics["report_baseline_cache_fraction"] == evidence.best_baseline.cache_fraction
