"""The second reading's attention, in blocks, must be that of an eager stock forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from a2sf_core import A2SFCache, A2SFError, Policy, attach, reread
from a2sf_core.reread import attention_when_reread

from . import models


def eager(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """`[layer, kv_head, n]` from the whole attention matrices of [prompt][prompt]."""
    n = ids.shape[1]
    kv_heads = getattr(model.config, "num_key_value_heads", model.config.num_attention_heads)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(torch.cat([ids, ids], 1), output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation("sdpa")
    return torch.stack([each[0, :, n:, :n].amax(1).view(kv_heads, -1, n).amax(1) for each in maps])


@pytest.mark.parametrize("floats", [4_000_000, 4 * 60 * 7])
def test_the_largest_attention_is_that_of_the_whole_matrix(
    model: Any, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reread, "_BLOCK_FLOATS", floats)
    ids = models.prompt(1, 30)
    told: list[tuple[int, int]] = []
    found = attention_when_reread(model, ids, lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found, eager(model, ids), atol=1e-5, rtol=1e-4)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert model.config._attn_implementation == "sdpa"


def test_a_sliding_window_hides_what_lies_before_it() -> None:
    found = attention_when_reread(models.build("mistral-sliding"), models.prompt(1, 30))
    hidden = 30 - (12 - 1)
    assert (found[..., :hidden] == 0).all()
    assert (found[..., hidden:] > 0).all()


def test_half_precision_and_attached_models(llama: Any) -> None:
    ids = models.prompt(1, 20)
    half = attention_when_reread(models.build("llama").to(torch.bfloat16), ids)
    assert half.dtype == torch.float32
    assert (half - attention_when_reread(llama, ids)).abs().mean() < 0.02
    with attach(Policy.full(3), llama), pytest.raises(A2SFError, match="attached"):
        attention_when_reread(llama, ids)


def test_what_a_failed_forward_has_left_does_not_matter(llama: Any) -> None:
    """A cache that was handed to a model that is not attached leaves a layer that waits for its attention."""
    expected = attention_when_reread(llama, models.prompt(1, 20))
    cache = A2SFCache(Policy.h2o(3, 0.5))
    cache.layers[0].update(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))
    assert (attention_when_reread(llama, models.prompt(1, 20)) == expected).all()
