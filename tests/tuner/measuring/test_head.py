"""What the full cache says of the answers is held while there is room for it, and made again of little otherwise."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import holder_of, samples, tiny
from tuner.measuring.engine import Engine
from tuner.measuring.store import nbytes
from tuner.measuring.texts import Ends

POLICIES = [Policy.h2o(3, 0.4), Policy.uniform(3, rule=Decay(8.0), budget=0.2, evict="step"), Policy.full(3)]
ENDS = Ends(6, frozenset({5, 17, 40}))


def scaled() -> Any:
    """A model that scales what its output embeddings say."""
    return tiny("granite", logits_scaling=3.0)


def engine(model: Any, memory: int | None = None) -> Engine:
    return Engine(model, samples(12), batch_tokens=150, block_size=3, memory=memory, ends=ENDS)


def held_by(engine: Engine) -> list[torch.Tensor]:
    return [text.full.log_probs for _, block in holder_of(engine).blocks() for batch in block for text in batch.texts]


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_where_memory_is_short_log_probabilities_go_first_and_no_figure_changes(kind: str) -> None:
    whole = engine(tiny(kind))
    sizes = [nbytes(block) for _, block in holder_of(whole).blocks()]
    in_hand = [*sizes[:-1], 0]
    enough = max(held + extra for held, extra in zip(accumulate(sizes), in_hand, strict=True))
    assert all(len(log_probs) for log_probs in held_by(engine(tiny(kind), enough)))
    light = engine(tiny(kind), enough - 1)
    assert not light.recomputes
    texts = [text for _, block in holder_of(light).blocks() for batch in block for text in batch.texts]
    gone = [text.full.log_probs.untyped_storage().nbytes() == 0 for text in texts]
    assert gone == [text.ids.shape[1] > 1 for text in texts], "of a first token the logits are all that there is"
    for ours, theirs in zip(light.race(POLICIES), whole.race(POLICIES), strict=True):
        for field, figures in vars(theirs.losses).items():
            assert np.array_equal(getattr(ours.losses, field), figures), field


def test_what_comes_after_the_output_embeddings_is_noticed_and_the_log_probabilities_stay() -> None:
    model = scaled()
    whole, short = engine(model), engine(model, 1)
    with pytest.raises(ValueError, match="nothing is known"):
        holder_of(whole).reader.head.logits(torch.zeros(1, 1, 32))
    assert all(
        len(batch.lighter().texts[0].full.log_probs) for _, block in holder_of(short).blocks() for batch in block
    )
    assert np.array_equal(short.evaluate(POLICIES[0]).kl, whole.evaluate(POLICIES[0]).kl)


def test_sums_that_were_learned_from_leave_the_memory() -> None:
    """A slice of nothing would keep all that it was cut from."""
    learner = Engine(tiny("llama"), samples(3), learn_from=(1.0, 16.0))
    learner.learn([Decay(1.0)] * 3)
    left = [
        layer.sums.untyped_storage().nbytes()
        for _, block in holder_of(learner).blocks()
        for batch in block
        for layer in batch.layers
    ]
    assert not any(left)
