"""Reading a prompt twice: what of the first reading the second one looks at.

What is needed to say a text again is what is needed to answer about it (KVzip, arXiv 2505.23416). KVzip scores the
tokens of every request this way; here it serves to learn, once, how much each KV head has to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from a2sf_core.cache import A2SFCache
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.recent import RecentQueries
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.plain.span import Span
from a2sf_core.switch import cache_argument, check_model, switched

# Floats of one block of queries x keys: 16 MB.
_BLOCK_FLOATS = 4_000_000


@torch.no_grad()
def attention_when_reread(
    model: Any, prompt: Tensor, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Tensor:
    """The largest attention that any query of a second reading pays to each token of the first.

    One forward over [prompt][prompt]. Memory is linear in the prompt: of a layer only one block of attention is held at
    a time, and after it only what is returned.

    Args:
        model: a decoder-only transformers model, not attached, that takes twice the prompt.
        prompt: int64 `[1, n]` without padding.
        progress: called with (layers done, layers in all).

    Returns:
        float32 `[layer, kv_head, n]`, 0 to 1: the maximum over the query heads of the KV head, and 0 where a sliding
        window hides the token from all of them.

    Raises:
        A2SFError: if the model cannot be served or is attached.
    """
    check_model(model)
    n = prompt.shape[1]
    twice = torch.cat([prompt, prompt], 1)  # [1, 2 n]
    n_layers: int = model.config.get_text_config().num_hidden_layers
    layers = [_Reread(n, partial(progress, index + 1, n_layers)) for index in range(n_layers)]
    with switched(model):
        model(
            twice,
            attention_mask=torch.ones_like(twice),
            position_ids=torch.arange(2 * n, device=twice.device)[None],
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(model): A2SFCache(layers=layers)},
        )
    return torch.stack([layer.largest.to(prompt.device) for layer in layers])


class _Reread(A2SFLayer):
    """A layer that goes through one forward and keeps the largest attention of each token only."""

    largest: Tensor

    def __init__(self, n: int, done: Callable[[], None]) -> None:
        super().__init__(LayerPolicy())
        self.recent_queries = RecentQueries(n)
        self._n, self._done = n, done

    def end_forward(self) -> None:
        """Look at the attention while queries and keys are there, then let them go."""
        held = self.recent_queries.held
        assert held is not None
        scale, window = self.recent_queries.scale, self.recent_queries.sliding_window
        self.largest = largest_attention(held[0], self.keys, scale, self._n, window)[0]
        length = self.seen
        self.reset()
        self.seen = length
        self._done()


def largest_attention(query: Tensor, key: Tensor, scale: float, n: int, sliding_window: int | None = None) -> Tensor:
    """The largest attention that the last queries pay to each of the first `n` keys.

    Args:
        query: `[batch, head, query, dim]`, those of the last tokens.
        key: `[batch, kv_head, key, dim]` of all tokens; head is a multiple of kv_head.
        scale: factor of the dot product.
        sliding_window: a query at p sees keys at p - sliding_window + 1 .. p; None for all up to p.

    Returns:
        float32 `[batch, kv_head, n]`.
    """
    batch, heads, n_queries, dim = query.shape
    kv_heads, n_keys = key.shape[1], key.shape[2]
    first = n_keys - n_queries  # position of the first query
    keys = key.float().transpose(-1, -2).unsqueeze(2)  # [batch, kv_head, 1, dim, key]
    positions = torch.arange(n_keys, device=key.device).expand(batch, 1, n_keys)
    largest = torch.full((batch, kv_heads, n), float("-inf"), device=key.device)
    size = max(1, _BLOCK_FLOATS // (batch * heads * n_keys))
    for start in range(0, n_queries, size):
        stop = min(start + size, n_queries)
        seen = first + stop  # keys after the last query of this block are not looked at
        block = query[:, :, start:stop].float().view(batch, kv_heads, -1, stop - start, dim)
        logits = block.mul(scale) @ keys[..., :seen]  # [batch, kv_head, group, query, key]
        visible = Span(first, positions[..., :seen], None, sliding_window).visible(start, stop)
        logits.masked_fill_(~visible.unsqueeze(2), float("-inf"))
        logits -= logits.logsumexp(-1, keepdim=True)
        largest = torch.maximum(largest, logits[..., :n].amax((2, 3)))
    return largest.exp()
