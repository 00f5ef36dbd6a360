"""The sensitivity profile: what it costs to cut one layer, or one KV head, while all others keep everything.

Few heads of few layers hold what matters, so most of the profile is zeros, and it is measured from the coarse to the
fine: a layer that can be cut to the smallest budget for nothing is done with one measurement; inside a layer that
cannot, halves of its heads are cut together and only a half that hurts is split again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from a2sf_core.policy import LayerPolicy, Policy
from tuner.allocation import allocate
from tuner.block import HALF_LIVES
from tuner.engine import Engine, Progress

PROFILE_FILE = "profile.json"
PROFILE_BLOCKS = 2
"""Blocks of search samples that it is measured on: it says where to look, the trials say what is true."""
BUDGETS = (0.03, 0.08, 0.2, 0.45)
"""Shares of the cache that a layer or head is cut to."""
PROFILE_HALF_LIVES = (32.0, 4.0, 128.0, math.inf)
"""Half-lives that every layer is tried with; the first one decides whether it matters at all."""
RECENT, SINK = 0.25, 2
"""Of the cut layer or head: share for the most recent tokens, and first tokens that stay."""
NEGLIGIBLE = 0.002
"""A loss below this many nats per token (a perplexity 0.2 % higher) counts as none."""


@dataclass(frozen=True)
class Profile:
    """Increase of the NLL (nats per token, mean over the samples) when one layer or KV head alone is cut.

    layer_loss: ``[layer, half_life, budget]``, at `PROFILE_HALF_LIVES` and `BUDGETS`.
    head_loss: ``[layer, kv_head, budget]``, at the layer's best half-life.
    """

    layer_loss: np.ndarray
    head_loss: np.ndarray
    n_samples: int
    evaluations: int

    @cached_property
    def best_half_lives(self) -> list[float]:
        """The half-life of least loss, per layer; the middle of all where a layer does not care."""
        cost = self.layer_loss.sum(-1)  # [layer, half_life]
        return [PROFILE_HALF_LIVES[int(row.argmin())] if row.any() else PROFILE_HALF_LIVES[0] for row in cost]

    def budgets(self, total: float) -> np.ndarray:
        """Shares ``[layer, kv_head]`` of mean ``total`` by marginal utility."""
        whole = np.zeros((*self.head_loss.shape[:2], 1))
        curves = np.concatenate([self.head_loss, whole], -1)  # [layer, kv_head, budget]
        shares = allocate((*BUDGETS, 1.0), curves.reshape(-1, curves.shape[-1]), total)
        return shares.reshape(self.head_loss.shape[:2])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the grid it was measured on."""
        return {
            "budgets": list(BUDGETS),
            "half_lives": ["inf" if math.isinf(h) else h for h in PROFILE_HALF_LIVES],
            "layer_loss": self.layer_loss.tolist(),
            "head_loss": self.head_loss.tolist(),
            "n_samples": self.n_samples,
            "evaluations": self.evaluations,
        }

    def save(self, path: Path) -> None:
        """Write JSON to ``path``, whole or not at all."""
        write_whole(path, json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            A2SFError: if the file is not a profile, or one of another grid.
        """
        try:
            data = json.loads(path.read_text())
            grid = (data["budgets"], data["half_lives"])
            found = cls(
                np.array(data["layer_loss"]), np.array(data["head_loss"]), data["n_samples"], data["evaluations"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise A2SFError(f"{path} is not a sensitivity profile ({error}); delete it, it is measured anew.") from None
        if grid != (found.to_dict()["budgets"], found.to_dict()["half_lives"]):
            raise A2SFError(f"{path} was measured on another grid by an older version; delete it, it is measured anew.")
        return found


def measure_profile(engine: Engine, n_blocks: int, progress: Progress = lambda _done, _total: None) -> Profile:
    """Measure the profile on the engine's first ``n_blocks`` blocks of samples."""
    return _Measuring(engine, n_blocks, progress).profile()


class _Measuring:
    def __init__(self, engine: Engine, n_blocks: int, progress: Progress) -> None:
        self.engine, self.n_blocks, self.progress = engine, n_blocks, progress
        self.evaluations = 0
        seen = engine.evaluate_blocks(Policy.full(engine.n_layers), n_blocks)
        self.full, self.n_samples = seen.losses.nll, seen.n

    def profile(self) -> Profile:
        n_layers, n_heads = self.engine.n_layers, self.engine.n_kv_heads
        layer_loss = np.zeros((n_layers, len(PROFILE_HALF_LIVES), len(BUDGETS)))
        head_loss = np.zeros((n_layers, n_heads, len(BUDGETS)))
        everyone = range(n_heads)
        for layer in range(n_layers):
            self.progress(layer, n_layers)
            if self._loss(layer, everyone, PROFILE_HALF_LIVES[0], BUDGETS[0]) < NEGLIGIBLE:
                continue
            for place, half_life in enumerate(PROFILE_HALF_LIVES):
                layer_loss[layer, place] = self._curve(layer, everyone, half_life)
            best = PROFILE_HALF_LIVES[int(layer_loss[layer].sum(-1).argmin())]
            for head in self._sensitive_heads(layer, everyone, best):
                head_loss[layer, head] = self._curve(layer, (head,), best)
        self.progress(n_layers, n_layers)
        return Profile(layer_loss, head_loss, self.n_samples, self.evaluations)

    def _sensitive_heads(self, layer: int, heads: Sequence[int], half_life: float) -> Iterator[int]:
        """Heads that cannot be cut to the smallest budget for nothing, found by halving."""
        if self._loss(layer, heads, half_life, BUDGETS[0]) < NEGLIGIBLE:
            return
        if len(heads) == 1:
            yield heads[0]
            return
        middle = len(heads) // 2
        yield from self._sensitive_heads(layer, heads[:middle], half_life)
        yield from self._sensitive_heads(layer, heads[middle:], half_life)

    def _curve(self, layer: int, heads: Sequence[int], half_life: float) -> list[float]:
        """Loss at each budget; zero from the first negligible one on, which is then not measured."""
        curve = []
        for budget in BUDGETS:
            loss = self._loss(layer, heads, half_life, budget)
            if loss < NEGLIGIBLE:
                break
            curve.append(loss)
        return curve + [0.0] * (len(BUDGETS) - len(curve))

    def _loss(self, layer: int, heads: Sequence[int], half_life: float, budget: float) -> float:
        shares = [1.0] * self.engine.n_kv_heads
        for head in heads:
            shares[head] = budget
        layers = [LayerPolicy()] * self.engine.n_layers
        layers[layer] = LayerPolicy(half_life, tuple(shares), RECENT, SINK)
        self.evaluations += 1
        seen = self.engine.evaluate_blocks(Policy(tuple(layers)), self.n_blocks)
        return float((seen.losses.nll - self.full).mean())


assert set(PROFILE_HALF_LIVES) <= set(HALF_LIVES)
