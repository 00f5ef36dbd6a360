"""Properties of the kept sets."""

from __future__ import annotations

import pytest
import torch

from a2sf_core import selection

from . import reference


def random_scores(seed: int, *shape: int) -> torch.Tensor:
    # Few distinct values, so that ties are common.
    return torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_ties_prefer_the_later_token() -> None:
    order = selection.order_by_score(torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.tensor([True] * 4))
    assert order.tolist() == [3, 1, 2, 0]


def test_invalid_slots_come_last() -> None:
    order = selection.order_by_score(torch.tensor([9.0, 0.0, 0.0]), torch.tensor([False, True, True]))
    assert order.tolist() == [2, 1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_obvious_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = random_scores(seed, 2, 3, 17)
    valid = torch.rand(2, 3, 17, generator=generator) > 0.3
    budget = torch.randint(1, 20, (2,), generator=generator)
    recent = torch.randint(0, 20, (2,), generator=generator)
    sink = seed % 5
    got = selection.select(scores, valid, budget, recent, sink)
    for b in range(2):
        for h in range(3):
            alive = {k: float(scores[b, h, k]) for k in range(17) if valid[b, h, k]}
            wanted = reference.choose(alive, int(budget[b]), sink, int(recent[b]))
            row = got[b, h].tolist()
            assert row == wanted + [-1] * (got.shape[-1] - len(wanted))
    assert (got >= 0).sum(-1).max() == got.shape[-1]


def test_any_budget_is_composed_from_one_order() -> None:
    scores, valid = random_scores(1, 40), torch.ones(40, dtype=torch.bool)
    order = selection.order_by_score(scores, valid)
    budgets = torch.arange(1, 41)
    kept = selection.keep_from_order(order.expand(40, 40), torch.tensor(40), budgets, 2, 3)
    assert kept.sum(-1).tolist() == budgets.tolist()
    # A larger budget keeps all that a smaller one keeps, once sink and recent are served.
    assert not (kept[4:-1] & ~kept[5:]).any()
    one_by_one = torch.stack([selection.keep_from_order(order, torch.tensor(40), b, 2, 3) for b in budgets])
    assert (kept == one_by_one).all()


def test_sink_is_served_before_recent() -> None:
    order = selection.order_by_score(torch.zeros(10), torch.ones(10, dtype=torch.bool))
    kept = selection.kept_from_order(order, torch.tensor(10), torch.tensor(5), sink=4, recent=9)
    assert kept.tolist() == [0, 1, 2, 3, 9]
    kept = selection.kept_from_order(order, torch.tensor(10), torch.tensor(3), sink=4, recent=9)
    assert kept.tolist() == [0, 1, 2]


def test_padding_is_never_kept() -> None:
    scores = torch.tensor([[[9.0, 9.0, 1.0, 2.0, 3.0]]])
    valid = torch.tensor([[False, False, True, True, True]])
    kept = selection.select(scores, valid, torch.tensor([2]), torch.tensor([0]), sink=1)
    assert kept.tolist() == [[[2, 4]]]


def test_rows_may_keep_different_counts() -> None:
    kept = selection.select(
        torch.arange(4.0).expand(2, 1, 4),
        torch.ones(2, 4, dtype=torch.bool),
        torch.tensor([1, 3]),
        torch.tensor([0, 0]),
        0,
    )
    assert kept.tolist() == [[[3, -1, -1]], [[1, 2, 3]]]


@pytest.mark.parametrize(("sink", "recent"), [(0, 0), (2, 0), (0, 3), (1, 5), (40, 0), (3, 40)])
def test_slots_in_any_order_keep_the_same_tokens(sink: int, recent: int) -> None:
    """Scores of few values, so that ties decide; rows with holes, one of them all empty."""
    draw = torch.Generator().manual_seed(sink + recent)
    for budget in (1, 4, 9, 50):
        scores = torch.randint(0, 3, (3, 2, 20), generator=draw).float()
        valid = torch.rand(3, 2, 20, generator=draw) < 0.7
        valid[2] = False
        budgets = torch.tensor([budget, budget + 2, budget])
        wanted = selection.select(
            scores, valid, budgets, torch.full_like(budgets, recent), sink
        )  # [batch, kv_head, kept]

        order = torch.rand(3, 2, 20, generator=draw).argsort(-1)
        positions = torch.arange(20).expand(3, 2, 20).masked_fill(~valid, -1).gather(-1, order).int()
        column = budgets[:, None, None]
        recents = torch.full_like(column, recent) if recent else None
        keep = selection.keep_from_positions(scores.gather(-1, order), positions, column, sink, recents)
        got = [sorted(positions[b, h][keep[b, h]].tolist()) for b in range(3) for h in range(2)]
        assert got == [[slot for slot in row if slot >= 0] for row in wanted.flatten(0, 1).tolist()]


def test_empty_slots() -> None:
    positions = torch.tensor([[4, -1, 2, -1, -1], [1, 2, 3, 4, -1]])
    assert selection.empty_slots(positions, 2).tolist() == [[1, 3], [4, 0]]
    assert selection.empty_slots(positions.flip(-1), 3).tolist() == [[0, 1, 3], [0, 0, 0]]
