"""Racing: only rivals of the same size count, and a good trial is hardly ever stopped."""

from __future__ import annotations

import numpy as np

from tuner.measuring.losses import Losses, Seen
from tuner.search.racing import Race


def seen(kl: np.ndarray, rows: np.ndarray) -> Seen:
    return Seen(rows, Losses(np.zeros(len(rows)), kl[rows], *[np.zeros(len(rows))] * 6))


def test_only_rivals_with_as_little_memory_count() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(1, 0.3, 64), rng.normal(2, 0.3, 64)
    race = Race()
    race.finish(0.3, good)
    rows = np.arange(16)
    assert race.is_lost(0.3, seen(bad, rows))
    assert not race.is_lost(0.29, seen(bad, rows))
    assert not race.is_lost(0.3, seen(good - 0.01, rows))


def test_a_better_trial_is_hardly_ever_stopped() -> None:
    """The rule promises 0.5 % per look at the hardest, which are equal trials; with three looks at most about 1.5 %."""
    rng = np.random.default_rng(1)
    stopped = 0
    for _ in range(400):
        common = rng.exponential(1.0, 64)
        race = Race()
        rival, new = (common + rng.normal(0, 0.5, 64) for _ in range(2))
        race.finish(0.2, rival)
        stopped += new.mean() < rival.mean() and any(race.is_lost(0.2, seen(new, np.arange(n))) for n in (16, 32, 48))
    assert stopped / 400 < 0.02


def test_questions_on_one_context_are_one_draw() -> None:
    """Four equal questions on each context say what one says: the same trials are stopped, after the same contexts."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        rival, new = rng.exponential(1.0, 32), rng.exponential(1.2, 32)
        alone = Race()
        alone.finish(0.2, rival)
        together = Race(contexts=np.repeat(np.arange(32), 4))
        together.finish(0.2, np.repeat(rival, 4))
        for n in (8, 12, 20):
            lost = alone.is_lost(0.2, seen(new, np.arange(n)))
            assert together.is_lost(0.2, seen(np.repeat(new, 4), np.arange(4 * n))) == lost
    strict = Race()
    strict.finish(0.2, np.repeat(np.ones(32), 4))
    assert strict.is_lost(0.2, seen(np.repeat(np.full(32, 2.0) + rng.normal(0, 0.1, 32), 4), np.arange(32)))
