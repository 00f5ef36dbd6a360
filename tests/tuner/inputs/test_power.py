"""What a number of samples can prove: as the interval of the report will have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tuner.models import samples
from tuner.inputs.metrics import METRICS
from tuner.inputs.power import Power, contexts_to_prove, provable_loss, resolution
from tuner.judging.intervals import paired_interval


@pytest.mark.parametrize("n", [5, 40, 96, 400])
def test_the_provable_loss_is_the_interval_of_no_loss_at_all(n: int) -> None:
    expected = provable_loss(n, 100.0)
    assert -paired_interval(np.zeros(n), 0, 100.0).low == pytest.approx(expected)


def test_the_fewest_samples_suffice_and_one_less_does_not() -> None:
    for goal in (0.5, 1.0, 4.0, 30.0):
        n = contexts_to_prove(goal, 100.0)
        assert n is not None
        assert provable_loss(n, 100.0) <= goal < provable_loss(n - 1, 100.0)
    assert contexts_to_prove(0.0, 100.0) is None


def test_it_says_what_would_let_a_run_decide() -> None:
    few = Power(96, 96, 1.0, 100.0, report_share=0.4)
    assert not few.suffices
    assert str(few) == (
        "96 report samples can prove a loss of at most 4.2 points; you allow 1. 758 more samples, or --max-degradation "
        "4.2, would let this run decide."
    )
    assert few.missing == pytest.approx((contexts_to_prove(1.0, 100.0) - 96) / 0.4, abs=1)  # type: ignore[operator]
    assert str(Power(99, 99, 4.0, 100.0)) == "99 report samples can prove a loss of at most 4 points; you allow 4."
    assert Power(99, 99, 4.0, 100.0).suffices


def test_questions_on_one_context_prove_little() -> None:
    said = str(Power(1, 50, 4.0, 100.0))
    assert said.startswith("50 report samples on 1 context can prove a loss of at most 100 points; you allow 4.")
    assert said.endswith("98 more contexts would let this run decide.")


def test_the_resolution_is_what_one_sample_loses_at_least() -> None:
    some = [replace(each, answer_ids=(1, 2, 3, 4), facts=("a", "b")) for each in samples(3)]
    found = [resolution(METRICS[name], some) for name in ("token_accuracy", "facts", "exact_match")]
    assert found == [25.0, 50.0, 100.0]
