"""Which prompts are read twice, that it goes on where it stopped, and what happens to prompts that are too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.reread import attention_when_reread
from tests.tuner.models import samples, tiny
from tuner.search import rereading
from tuner.search.profile_part import Part
from tuner.search.reconstruction import kept_shares
from tuner.search.rereading import READINGS, TwiceReader, measure_reconstruction, prompts_to_look_at, shortened

TOLD: list[tuple[int, int]] = []
MODEL, SAMPLES = tiny("llama"), samples(12)


def progress(done: int, total: int) -> None:
    TOLD.append((done, total))


def test_at_most_eight_prompts_half_of_them_and_what_is_paid_for() -> None:
    many = samples(40)
    rows = prompts_to_look_at(many, 0, float("inf"))
    assert (len(rows), len(set(rows))) == (8, 8)
    assert rows != prompts_to_look_at(many, 1, float("inf"))
    assert len(prompts_to_look_at(samples(6), 0, float("inf"))) == 3
    assert len(prompts_to_look_at(samples(1), 0, 0)) == 1
    cost = READINGS * len(many[rows[0]].prompt_ids)
    assert prompts_to_look_at(many, 0, cost) == rows[:1]
    assert prompts_to_look_at(many, 0, cost + READINGS * len(many[rows[1]].prompt_ids)) == rows[:2]


def test_a_context_with_several_questions_is_read_twice_once() -> None:
    asked = [replace(sample, question_ids=(i,)) for sample in samples(6) for i in range(5, 9)]
    rows = prompts_to_look_at(asked, 0, float("inf"))
    assert len({asked[row].prompt_ids for row in rows}) == len(rows) == 3


def test_it_says_what_the_second_readings_say() -> None:
    TOLD.clear()
    found = measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, [3, 5], 1000, Part(), progress)
    assert (found.rows, found.n_shortened) == ((3, 5), 0)
    for kept, row in zip(found.profile.kept, (3, 5), strict=True):
        ids = torch.tensor([SAMPLES[row].prompt_ids])
        assert kept == pytest.approx(kept_shares(attention_when_reread(MODEL, ids).numpy()), abs=1e-4)
    assert [*((done, 6) for done in range(1, 7)), (6, 6)] == TOLD


def test_prompts_are_asked_until_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = range(8)
    monkeypatch.setattr(rereading, "STABLE", 0.0)
    assert len(measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, everything, 1000, Part(), progress).rows) == 8
    monkeypatch.setattr(rereading, "STABLE", 100.0)
    assert (
        len(measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, everything, 1000, Part(), progress).rows)
        == rereading.FEWEST_PROMPTS
    )


def test_what_was_found_before_a_stop_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.json"
    first = measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, [1, 2], 1000, Part(path), progress)
    asked: list[int] = []

    def counted(model: Any, ids: torch.Tensor, told: Any) -> torch.Tensor:
        asked.append(ids.shape[1])
        return attention_when_reread(model, ids, told)

    monkeypatch.setattr(rereading, "attention_when_reread", counted)
    again = measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, [1, 2, 4], 1000, Part(path), progress)
    assert asked == [len(SAMPLES[4].prompt_ids)]
    assert np.array_equal(again.profile.kept[:2], first.profile.kept)
    for spoiled in ("{", "[]", '{"totals": [1]}'):
        path.write_text(spoiled)
        assert np.array_equal(
            measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, [1, 2], 1000, Part(path), progress).profile.kept[0],
            first.profile.kept[0],
        )


def test_a_prompt_that_the_model_does_not_take_twice_keeps_its_ends() -> None:
    assert shortened(range(10), 10) == list(range(10))
    assert shortened(range(10), 5) == [0, 1, 2, 8, 9]
    length = len(SAMPLES[0].prompt_ids)
    found = measure_reconstruction(TwiceReader.of(MODEL), SAMPLES, [0], length, Part(), progress)
    assert (found.n_shortened, found.tokens) == (1, length // 2)
