"""Greedy decoding from a pruned cache, in buffers of static shape; on CUDA the steps are replayed as graphs.

    with attach(policy, model), torch.no_grad():
        cache = A2SFCache(policy)
        logits = model(ids, cache=cache, logits_to_keep=1).logits  # reads the prompt
        tokens = decode(model, cache, logits[:, -1].argmax(-1), max_new_tokens=256)

`model.generate` needs none of this and keeps to the growing cache, for any kind of sampling. Here nothing is asked of
the host between two tokens, except once in a while whether all rows have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from a2sf_core import attention
from a2sf_core.cache import parts_of
from a2sf_core.errors import A2SFError
from a2sf_core.layers.slot_part import RING, Clock
from a2sf_core.layers.slots import SlotLayer
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.shape import n_kv_heads
from a2sf_core.switch import cache_argument

# Steps between two questions whether all rows have ended: each waits for the device.
_ASK_EVERY = 16

# Rotary embeddings that choose their frequencies by the longest position, for which they wait for the device.
_ROPE_THAT_WAITS = {"dynamic", "longrope"}


class Decoder:
    """Steps through an answer. `close` gives the cache back as `model.generate` would have left it.

    Attributes:
        tokens: int64 `[batch, steps + 1]`: the first token, and one for each step done.
        logits: `[batch, vocabulary]` of the last step, overwritten by the next.
        calls: what steps are made of, "run", "fold" and "evict", each compiled and captured as asked.
    """

    def __init__(
        self,
        model: Any,
        cache: Any,
        first: Tensor,
        steps: int,
        graphs: bool | None = None,
        compiled: bool = False,
    ) -> None:
        """Move the tokens of `cache` into static buffers, layer by layer.

        Args:
            model: a transformers model inside `with attach(policy, model)`.
            cache: one that has read the prompt.
            first: int64 `[batch]`, the token that follows the prompt.
            steps: how many times `step` will be called at most.
            graphs: replay CUDA graphs; None for wherever that works.
            compiled: put the steps through torch.compile first, which takes a minute and joins the many small
                kernels of a transformers model.

        Raises:
            A2SFError: if the model is not attached or on several devices, or the cache has read nothing or is not of
                a policy.
        """
        if model.config._attn_implementation != attention.NAME:
            raise A2SFError("decode needs an attached model; call it inside `with attach(policy, model):`.")
        parts = parts_of(cache)
        if not parts or not all(isinstance(part, A2SFLayer) and part.is_initialized for part in parts):
            raise A2SFError("decode needs an A2SFCache(policy) that has read a prompt.")
        if len({part.device for part in parts}) > 1:
            raise A2SFError("decode needs all layers on one device; use model.generate for a model on several.")
        text = model.config.get_text_config()
        if graphs is None:
            graphs = first.device.type == "cuda" and not _ROPE_THAT_WAITS & _rope_types(text)
        self._model, self._cache, self._cache_name = model, cache, cache_argument(model)
        self._clock = Clock.starting_at(parts[0].seen, first.device)
        self._positions = parts[0].n_valid[:, None].clone()  # [batch, 1]: padding takes no position
        self._every = parts[0].decode_every
        self._since_cut = parts[0]._decoded if not parts[0].is_uncut else 0
        self._steps, self._done, self._since_folded = steps, 0, 0
        group = text.num_attention_heads // n_kv_heads(text)
        self.layers = [SlotLayer(layer, group, self._clock, steps) for layer in cache.layers]
        self._folds = any(part.folds for layer in self.layers for part in layer.parts)
        cache.layers[:] = self.layers
        self.tokens = torch.zeros(len(first), steps + 1, dtype=torch.long, device=first.device)
        self.tokens[:, 0] = first
        self._token = first[:, None].clone()  # [batch, 1]
        self.logits = torch.zeros(len(first), text.vocab_size, dtype=model.dtype, device=first.device)
        pool = torch.cuda.graph_pool_handle() if graphs else None
        self.calls = {
            name: _Replayed(torch.compile(function, fullgraph=True) if compiled else function, pool, graphs)
            for name, function in (("run", self.run_model), ("fold", self.fold), ("evict", self.evict))
        }

    def step(self) -> None:
        """Decode one token; score and evict where that is due, which the host counts by itself."""
        if self._done == self._steps:
            raise A2SFError(f"this Decoder has room for {self._steps} steps, and all are done.")
        self.calls["run"]()
        self._done += 1
        self._since_folded += 1
        self._since_cut += 1
        if self._every is not None and self._since_cut % self._every == 0:
            self.calls["evict"]()
            self._since_folded = 0
        elif self._since_folded == RING and self._folds:
            self.calls["fold"]()
            self._since_folded = 0

    @torch.no_grad()
    def close(self) -> None:
        """Put the layers that the cache had back in their places, with what they hold now; no step can follow."""
        self.calls.clear()  # they refer to this object, so the graphs and their memory would outlive it
        self._steps = self._done
        self._cache.layers[:] = [layer.restore(self._done, self._since_cut) for layer in self.layers]

    # ---- what is captured: no argument, no result, nothing but what lies on the device ------------------------

    @torch.no_grad()
    def run_model(self) -> None:
        """The step itself."""
        output = self._model(
            input_ids=self._token,
            position_ids=self._positions,
            use_cache=True,
            **{self._cache_name: self._cache},
        )
        logits = output.logits[:, -1]  # [batch, vocabulary]
        self.logits.copy_(logits)
        torch.argmax(logits, dim=-1, keepdim=True, out=self._token)
        self._positions.add_(1)
        self._clock.tick()
        self.tokens.index_copy_(1, self._clock.decoded, self._token)

    @torch.no_grad()
    def fold(self) -> None:
        """Bring all scores up to date."""
        for layer in self.layers:
            for part in layer.parts:
                part.fold()

    @torch.no_grad()
    def evict(self) -> None:
        """Drop tokens down to the budgets, in layers that drop any; bring the scores of the others up to date."""
        for layer in self.layers:
            for part in layer.parts:
                part.evict() if part.evicts else part.fold()
        self._clock.turn.zero_()


def decode(
    model: Any,
    cache: Any,
    first: Tensor,
    max_new_tokens: int,
    eos_token_id: int | None = None,
    pad_token_id: int = 0,
) -> Tensor:
    """The greedy answer: int64 `[batch, tokens]`, `first` included, `pad_token_id` after a row's end.

    Args:
        max_new_tokens: at least 1.
        eos_token_id: ends a row; None decodes `max_new_tokens` in any case.
        The others are those of `Decoder`. The cache holds the answer afterwards, up to 15 tokens beyond the
        end of the longest row among them.
    """
    decoder = Decoder(model, cache, first, max_new_tokens - 1)
    try:
        for done in range(1, max_new_tokens):
            decoder.step()
            if eos_token_id is not None and done % _ASK_EVERY == 0:
                ended = (decoder.tokens[:, : done + 1] == eos_token_id).any(-1)  # [batch]
                if bool(ended.all()):
                    break
    finally:
        decoder.close()
    tokens = decoder.tokens[:, : decoder._done + 1]
    if eos_token_id is None:
        return tokens
    ends = (tokens == eos_token_id).cumsum(-1)  # [batch, token]
    after = ends - (tokens == eos_token_id).int() > 0  # [batch, token]
    return tokens.masked_fill(after, pad_token_id)[:, : int((~after).sum(-1).max())]


def _rope_types(text_config: Any) -> set[str]:
    rope = getattr(text_config, "rope_parameters", None) or {}
    by_layer = [own for own in rope.values() if isinstance(own, dict)]  # one for each kind of attention, or one for all
    return {own.get("rope_type", "default") for own in (*by_layer, rope)}


class _Replayed:
    """A function that on CUDA is captured as a graph at its second call and replayed from then on.

    The first call runs, on a side stream as capturing demands: it does real work, and it allocates whatever its
    libraries allocate once. All graphs share one pool: they leave nothing in it that another needs.
    """

    def __init__(self, function: Callable[[], None], pool: Any, on: bool) -> None:
        self._function, self._pool, self._on = function, pool, on
        self._is_warm = False
        self._graph: Any = None

    def __call__(self) -> None:
        if not self._on:
            self._function()
        elif not self._is_warm:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._function()
            torch.cuda.current_stream().wait_stream(side)
            self._is_warm = True
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, pool=self._pool):
                    self._function()
            self._graph.replay()
