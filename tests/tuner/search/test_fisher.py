"""The Fisher profile: budgets dealt out by curves, and curves against dropping tokens one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from a2sf_core.errors import A2SFError
from a2sf_core.rules.attention import Decay
from tests.tuner.models import holder_of, samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends
from tuner.search.fisher import SHARES, TOGETHER, Fisher
from tuner.search.gradients import loss_curves, measure_fisher
from tuner.search.profile import Recency
from tuner.search.profile_file import Profiled
from tuner.search.profile_part import Part
from tuner.search.reconstruction import FLOOR, RECENT, SINK
from tuner.watch import silent

HALF_LIVES = (16.0, 64.0)


@pytest.fixture
def profile() -> Fisher:
    """Head (1, 0) loses most; under half-life 64 head (2, 1) does."""
    losses = np.empty((2, 3, 2, len(SHARES)))
    losses[:] = (1 - np.array(SHARES)) ** 2
    losses[0, 1, 0] *= 100
    losses[1, 2, 1] *= 100
    return Fisher(HALF_LIVES, losses, 4, 16.0)


@pytest.mark.parametrize("total", [0.002, 0.02, 0.1, 0.35, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("floor", [0.0, FLOOR, 1.0])
def test_budgets_have_the_mean_that_is_asked_for(profile: Fisher, total: float, floor: float) -> None:
    shares = replace(profile, floor=floor).budgets(total)
    assert shares.mean() == pytest.approx(total)
    assert shares.max() <= 1
    assert shares.min() >= floor * total - 1e-12
    if floor == 1:
        assert shares == pytest.approx(total)
    elif 0.02 <= total < 1:
        assert shares[1, 0] == shares.max()
        longer = replace(profile, half_life=64.0, floor=floor).budgets(total)
        assert longer[2, 1] == longer.max()


def test_no_other_budgets_of_one_size_lose_less(profile: Fisher) -> None:
    own = replace(profile, floor=0.0)
    curves = own.losses[0].reshape(6, -1)

    def lost(shares: np.ndarray) -> float:
        return sum(float(np.interp(share, SHARES, curve)) for share, curve in zip(shares, curves, strict=True))

    found = own.budgets(0.2)
    others = [np.array(each) for each in product(SHARES, repeat=6) if sum(each) <= 6 * 0.2 + 1e-9]
    assert lost(found.ravel()) <= min(map(lost, others)) + 1e-9


def test_all_layers_forget_alike(profile: Fisher) -> None:
    assert profile.recencies(np.array([0.1, 0.2, 0.3])) == [Recency(16.0, RECENT)] * 3


def test_curves_are_what_is_lost_by_dropping_one_token_after_the_other() -> None:
    holder = holder_of(Engine(tiny("llama"), samples(4), block_size=4))
    ((_, [batch]),) = holder.blocks()
    rules = holder.reader.bank.shared
    torch.manual_seed(0)
    for row in range(4):
        n = int(batch.n_tokens[row])
        alone = [torch.rand(2, n) for _ in range(3)]
        places = [rules.index(Decay(half_life)) for half_life in HALF_LIVES]
        found = loss_curves(batch, row, alone, places)
        for (order, place), layer, head in product(enumerate(places), range(3), range(2)):
            slots = batch.layers[layer].orders[place, int(batch.held[row]), head, :n].tolist()
            tokens = [slot - (batch.mask.shape[1] - n) for slot in slots]
            best_first = [*sorted(filter(range(SINK).__contains__, tokens), key=tokens.index),
                          *(token for token in tokens if token >= SINK)]  # fmt: skip
            for at, share in enumerate(SHARES):
                dropped = best_first[round(share * n) :]
                by_hand = sum(float(alone[layer][head, token]) ** TOGETHER for token in dropped)
                assert float(found[order, layer, head, at]) == pytest.approx(by_hand, abs=1e-4)


def test_measuring_goes_on_where_it_stopped(tmp_path: Path) -> None:
    engine = Engine(tiny("llama"), samples(12), block_size=4, ends=Ends(5, frozenset()))
    told: list[tuple[int, int]] = []
    path = tmp_path / "part.json"
    whole = measure_fisher(engine, (1, 5, 8), HALF_LIVES, 0, Part(path), lambda *at: told.append(at))
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)
    assert sorted(told) == told
    part = Part(tmp_path / "other.json")
    measure_fisher(engine, (5,), HALF_LIVES, 0, part, silent)
    told.clear()
    assert np.array_equal(
        measure_fisher(engine, (1, 5, 8), HALF_LIVES, 0, part, lambda *at: told.append(at)).losses, whole.losses
    )
    known = path.stat().st_mtime_ns
    again = measure_fisher(engine, (1, 5, 8), HALF_LIVES, 0, Part(path), silent)
    assert path.stat().st_mtime_ns == known, "nothing was measured again"
    assert (again.n_prompts, again.half_life) == (3, 16.0)
    assert not np.array_equal(measure_fisher(engine, (1, 5, 8), HALF_LIVES, 1, Part(), silent).losses, whole.losses)


def test_it_is_kept_as_json_and_checked(profile: Fisher, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    Profiled(replace(profile, half_life=64.0), why="as a test", losses={"fisher": {"0.12": 0.1}}).save(path)
    again = Profiled.load(path).used
    assert isinstance(again, Fisher)
    assert np.allclose(again.losses, profile.losses, rtol=1e-3)
    assert (again.half_lives, again.half_life, again.n_prompts) == (HALF_LIVES, 64.0, 4)
    text = path.read_text()
    for good, bad in (
        ('"half_life": 64.0', '"half_life": 3.0'),
        ('"half_lives": [16.0, 64.0]', '"half_lives": [16.0, 65.0]'),
        ('"half_lives": [16.0, 64.0]', '"half_lives": [64.0]'),
        ('"shares": [0.005, ', '"shares": [0.006, '),
        ('"n_prompts": 4', '"n_prompts": "x"'),
        ('"losses": [[[[', '"losses": [[[[0.5, '),
    ):
        assert good in text
        path.write_text(text.replace(good, bad))
        with pytest.raises(A2SFError, match=r"profile\.json is not a profile.*delete it"):
            Profiled.load(path)
