"""Whether gathering says what the attached model says, where weights are quantised.

Gathering reads an answer in one go and many rows together, serving reads it token by token: the last digits differ, as
sums are made in another order. Kernels that round what they are given make more of it (docs/large-models.md).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from a2sf_core.policy import Policy
from tuner.measuring.engine import Engine

TOLERANCE = 1e-3
"""Nats per token of one sample; whole float32 models stay a hundred times below it."""


def largest_gap(engine: Engine, policy: Policy) -> float:
    """Largest difference that a sample's NLL has between the two ways, nats per token, in the first block."""
    gathered, really = engine.evaluate_blocks(policy, 1).losses, engine.evaluate_directly(policy, n_blocks=1)
    return float(np.abs(gathered.nll - really.nll).max())


def must_run_attached(engine: Engine, policy: Policy, say: Callable[[str], None]) -> bool:
    """True if a proof must run the attached model, which is said then; only quantised models are tried.

    `policy`: one that drops tokens, as another token that stays shows more than the rounding that brought it in.
    """
    if not getattr(engine.model, "is_quantized", False) or (gap := largest_gap(engine, policy)) <= TOLERANCE:
        return False
    say(
        "With these quantised weights the model says something else when tokens come one by one, as in serving (by up "
        f"to {gap:.2g} nats per token): the report samples are measured by really running the attached model, which "
        "takes longer."
    )
    return True
