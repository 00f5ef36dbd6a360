"""Three parts that do not depend on the file's order and share no text if they can help it."""

from __future__ import annotations

from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from studies.samples import Sample
from tests.tuner.inputs.prompts import sample, task
from tuner.inputs.encoding import encode
from tuner.inputs.splits import Parts, split


def many(count: int, contexts: int | None = None) -> list[Sample]:
    return [sample(f"context {i % (contexts or count)}", name=f"id{i}") for i in range(count)]


def ids(parts: Parts[Any]) -> list[list[str]]:
    return [[each.id for each in part] for part in (parts.search, parts.select, parts.report)]


def test_parts_are_disjoint_and_hold_all() -> None:
    parts = split(many(50), "seed")
    assert [len(part) for part in ids(parts)] == [20, 10, 20]
    assert sorted(name for part in ids(parts) for name in part) == sorted(each.id for each in many(50))
    assert parts.shared_contexts == 0


def test_only_ids_and_seed_decide() -> None:
    assert ids(split(many(50), "seed")) == ids(split(many(50)[::-1], "seed"))
    assert ids(split(many(50), "seed")) != ids(split(many(50), "other"))


def test_encoded_samples_split_as_their_samples(tokenizer: Any) -> None:
    samples = many(40, contexts=15)
    assert ids(split(encode(samples, tokenizer, task(), 200), "x")) == ids(split(samples, "x"))


def test_counts_are_met_and_the_rest_is_left_out() -> None:
    assert [len(part) for part in ids(split(many(50), "seed", counts=(10, 5, 20)))] == [10, 5, 20]


def test_questions_on_one_text_stay_together() -> None:
    parts = split(many(60, contexts=12), "seed")
    assert parts.shared_contexts == 0
    assert [len(part) for part in ids(parts)] == [25, 10, 25]


def test_too_few_texts_are_shared_and_counted() -> None:
    parts = split(many(30, contexts=2), "seed")
    assert [len(part) for part in ids(parts)] == [12, 6, 12]
    assert parts.shared_contexts == 2


def test_the_smallest_set_that_can_be_split() -> None:
    assert [len(part) for part in ids(split(many(6), "seed"))] == [2, 2, 2]


@pytest.mark.parametrize(("count", "counts", "needed"), [(5, None, 6), (0, None, 6), (20, (10, 5, 20), 35)])
def test_too_few_samples(count: int, counts: tuple[int, int, int] | None, needed: int) -> None:
    with pytest.raises(A2SFError) as caught:
        split(many(count), "seed", counts)
    assert f"{count} samples cannot be split into search, select and report; at least {needed} are needed" in str(
        caught.value
    )
