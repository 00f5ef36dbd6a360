"""Measuring the profile: what it costs to cut one layer, or one KV head, while all others keep everything.

Few heads of few layers hold what matters, so most of the profile is zeros, and it is measured from the coarse to the
fine: a layer that can be cut to the smallest budget for nothing is done with one measurement. Of those that cannot, the
most sensitive are looked into: which half-life and how many recent tokens suit each budget, and which of their heads it
is, by cutting halves of the heads together and splitting only a half that hurts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from a2sf_core.policy import LayerPolicy, Policy
from a2sf_core.rules.attention import Decay
from tuner.measuring.bank import HALF_LIVES
from tuner.measuring.engine import Engine
from tuner.search.cut_alone import BUDGETS, NEGLIGIBLE, SINK, CutAlone
from tuner.search.profile import Recency
from tuner.search.profile_part import Part
from tuner.watch import Progress

PROFILE_BLOCKS = 4
"""Blocks of search samples that it is measured on: it says where to look, the trials say what is true."""
PROFILE_HALF_LIVES = (2.0, 8.0, 32.0, 128.0, math.inf)
RECENTS = (0.1, 0.25, 0.5, 0.75)
"""Shares of a budget for the most recent tokens."""
START = Recency(8.0, 0.5)
"""What every layer is tried with first: wrong for some, ruinous for none."""
MOST_REFINED = 6
"""Layers whose half-life, recent share and heads are looked into, the most sensitive ones: a profile of a deep model
must not cost more than its search."""


def measure_profile(
    engine: Engine,
    n_blocks: int,
    progress: Progress = lambda _done, _total: None,
    most_evaluations: int | None = None,
    part: Part | None = None,
) -> CutAlone:
    """Measure the profile on the engine's first `n_blocks` blocks of samples.

    Args:
        progress: called with (layers done, in all).
        most_evaluations: after so many no further layer is looked into; None for no limit.
        part: what a run that was stopped found already; None for nothing.
    """
    most = math.inf if most_evaluations is None else most_evaluations
    return _Measuring(engine, n_blocks, progress, part or Part()).profile(most)


class _Measuring:
    def __init__(self, engine: Engine, n_blocks: int, progress: Progress, part: Part) -> None:
        self.engine, self.n_blocks, self.progress, self.part = engine, n_blocks, progress, part
        self.asked: set[str] = set()
        seen = engine.evaluate_blocks(Policy.full(engine.n_layers), n_blocks)
        self.full, self.n_samples = seen.losses.nll, seen.n
        shape = engine.n_layers, len(BUDGETS)
        self.layer_loss = np.zeros(shape)
        self.half_life, self.recent = np.full(shape, START.half_life), np.full(shape, START.recent)
        self.head_loss = np.zeros((engine.n_layers, engine.n_kv_heads, len(BUDGETS)))
        self.everyone = range(engine.n_kv_heads)

    def profile(self, most_evaluations: float) -> CutAlone:
        n_layers = self.engine.n_layers
        for layer in range(n_layers):
            self.progress(layer, n_layers)
            self.layer_loss[layer] = self._curve(layer, self.everyone)
            self.head_loss[layer] = self.layer_loss[layer] / len(self.everyone)
        by_need = np.argsort(-self.layer_loss.sum(-1), kind="stable").tolist()
        for layer in [layer for layer in by_need if self.layer_loss[layer].any()][:MOST_REFINED]:
            if self.evaluations >= most_evaluations:
                break
            self._refine(layer)
            alone = np.zeros_like(self.head_loss[layer])  # [kv_head, budget]
            for head in self._sensitive_heads(layer, self.everyone):
                alone[head] = self._curve(layer, (head,))
            self.head_loss[layer] = _shared_out(self.layer_loss[layer], alone)
        self.progress(n_layers, n_layers)
        return CutAlone(self.layer_loss, self.half_life, self.recent, self.head_loss, self.n_samples, self.evaluations)

    def _refine(self, layer: int) -> None:
        """Find the best recency for each budget, smallest first: the half-life, then the recent share with it."""
        best = START
        for place, budget in enumerate(BUDGETS):
            known = {best: self._loss(layer, self.everyone, best, budget)}
            for half_life in PROFILE_HALF_LIVES:
                self._try(known, layer, budget, replace(best, half_life=half_life))
            best = min(known, key=known.__getitem__)
            for recent in RECENTS:
                self._try(known, layer, budget, replace(best, recent=recent))
            best = min(known, key=known.__getitem__)
            self.half_life[layer, place:], self.recent[layer, place:] = best.half_life, best.recent
            if known[best] < NEGLIGIBLE:
                self.layer_loss[layer, place:] = 0.0
                break
            self.layer_loss[layer, place] = known[best]

    def _try(self, known: dict[Recency, float], layer: int, budget: float, recency: Recency) -> None:
        if recency not in known and min(known.values()) >= NEGLIGIBLE:
            known[recency] = self._loss(layer, self.everyone, recency, budget)

    def _sensitive_heads(self, layer: int, heads: Sequence[int]) -> Iterator[int]:
        """Heads that cannot be cut to the smallest budget for nothing, found by halving."""
        if self._loss(layer, heads, self._recency(layer, 0), BUDGETS[0]) < NEGLIGIBLE:
            return
        if len(heads) == 1:
            yield heads[0]
            return
        middle = len(heads) // 2
        yield from self._sensitive_heads(layer, heads[:middle])
        yield from self._sensitive_heads(layer, heads[middle:])

    def _recency(self, layer: int, place: int) -> Recency:
        return Recency(float(self.half_life[layer, place]), float(self.recent[layer, place]))

    def _curve(self, layer: int, heads: Sequence[int]) -> list[float]:
        """Loss at each budget; zero from the first negligible one on, which is then not measured."""
        curve = []
        for place, budget in enumerate(BUDGETS):
            loss = self._loss(layer, heads, self._recency(layer, place), budget)
            if loss < NEGLIGIBLE:
                break
            curve.append(loss)
        return curve + [0.0] * (len(BUDGETS) - len(curve))

    def _loss(self, layer: int, heads: Sequence[int], recency: Recency, budget: float) -> float:
        section, key = f"cut alone, {self.n_samples} samples", f"{layer} {tuple(heads)} {recency} {budget}"
        self.asked.add(key)
        if self.part.get(section, key) is None:
            policy = cut_alone(self.engine, layer, heads, recency, budget)
            seen = self.engine.evaluate_blocks(policy, self.n_blocks)
            self.part.put(section, key, float((seen.losses.nll - self.full).mean()))
        return float(self.part.get(section, key))

    @property
    def evaluations(self) -> int:
        """How many cuts were asked for, each once."""
        return len(self.asked)


def _shared_out(layer_loss: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """`layer_loss` `[budget]` in proportion to `alone` `[kv_head, budget]`; in equal parts where that is 0."""
    total = alone.sum(0)  # [budget]
    equal = np.full_like(alone, 1 / len(alone))
    return layer_loss * np.divide(alone, total, out=equal, where=total > 0)


def cut_alone(engine: Engine, layer: int, heads: Sequence[int], recency: Recency, budget: float) -> Policy:
    """`heads` of one `layer` keep `budget`; everything else keeps all."""
    shares = [1.0] * engine.n_kv_heads
    for head in heads:
        shares[head] = budget
    layers = [LayerPolicy()] * engine.n_layers
    layers[layer] = LayerPolicy(Decay(recency.half_life), tuple(shares), recency.recent, SINK)
    return Policy(tuple(layers))


assert {*PROFILE_HALF_LIVES, START.half_life} <= set(HALF_LIVES)
