"""Racing: a trial that another one beats for certain is not measured to the end.

Memory is known before a trial runs, so its rivals are the finished trials with the same or a smaller cache. Samples
come in random order, the same for all trials, so differences are paired; questions on one context are one draw. This is
our own rule because Optuna's pruners refuse two objectives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from tuner.measuring.losses import Seen
from tuner.search.hypervolume import front

ERROR = 0.005
"""Chance, shared by all rivals of one look, to stop a trial that is as good as they are. A trial wrongly stopped is a
point lost, a trial run in vain costs a fraction of a second; so the rule is slow to stop."""

LEAST_SEEN = 12
"""Losses are skewed, so an interval from fewer samples cannot be trusted."""


@dataclass
class Race:
    """The finished trials, and the question whether a new one can still beat them.

    Attributes:
        memory: cache fraction of every finished trial.
        loss: its KL to the full cache `[sample]`.
        contexts: int `[sample]`, equal for questions on one context; None where each sample has its own.
    """

    memory: list[float] = field(default_factory=list)
    loss: list[np.ndarray] = field(default_factory=list)
    contexts: np.ndarray | None = None

    def finish(self, memory: float, loss: np.ndarray) -> None:
        """Take in a trial that was measured on all samples."""
        self.memory.append(memory)
        self.loss.append(loss)

    def is_lost(self, memory: float, seen: Seen) -> bool:
        """True if a rival is better even at the optimistic end of the paired interval of the mean difference."""
        smaller = [i for i, cache in enumerate(self.memory) if cache <= memory]
        points = [(self.memory[i], float(self.loss[i].mean())) for i in smaller]
        rivals = np.array([self.loss[smaller[place]] for place in front(points)])  # [rival, sample]
        if not len(rivals):
            return False
        contexts = np.arange(rivals.shape[1]) if self.contexts is None else self.contexts
        return bool((at_least(seen, rivals, contexts) > 0).any())


def at_least(seen: Seen, rivals: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """How much more KL than each of `rivals` a policy has at the optimistic end: `[rival]`, -inf from too few samples.

    Args:
        seen: of the policy.
        rivals: KL of each of them on all samples `[rival, sample]`.
        contexts: int `[sample]`, equal for questions on one context.
    """
    draws = (contexts[seen.rows, None] == np.unique(contexts[seen.rows])).astype(float)  # [seen, draw]
    n_draws = draws.shape[1]
    if n_draws < LEAST_SEEN:
        return np.full(len(rivals), -np.inf)
    differences = seen.losses.kl - rivals[:, seen.rows]  # [rival, seen]
    # The samples are drawn without replacement from the few that a full measurement would see.
    unseen = math.sqrt(1 - seen.n / rivals.shape[1])
    mean = differences.mean(-1)  # [rival]
    spread = np.square((differences - mean[:, None]) @ draws).sum(-1) * n_draws / (n_draws - 1)
    error = np.sqrt(spread) / seen.n * unseen
    optimistic: np.ndarray = mean - stats.t.ppf(1 - ERROR / len(rivals), n_draws - 1) * error
    return optimistic
