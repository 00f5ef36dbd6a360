"""What transformers asks of every layer that prunes, and how a layer reaches the attention function."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from a2sf_core.errors import A2SFError

_NO_ROLLBACK = (
    "assisted and prompt-lookup decoding need to roll the cache back, which a pruned cache cannot; "
    "call generate without assistant_model / prompt_lookup_num_tokens"
)


# transformers gives the attention function no cache. `update` leaves its layer here, and the attention
# function, called next in the same thread, takes it. No context variable: torch.compile cannot trace one. What
# it traces of a thread's own values does not outlive a break in its graph: layers that break one go through `_eager`.
class _Waiting(threading.local):
    layer: PruningLayer | None = None


_traced, _eager = _Waiting(), _Waiting()


def take_waiting_layer() -> PruningLayer | None:
    """The layer whose `update` was called last and whose attention is due now, if any."""
    layer = _traced.layer
    if layer is None:
        return _take_eager()
    _traced.layer = None
    return layer


def forget_waiting_layer(is_static: bool) -> None:
    """Forget what a forward that failed half-way has left; the next one brings layers of static shape, or others."""
    _traced.layer = None
    if not is_static:
        _take_eager()


def wait_traced(layer: PruningLayer) -> bool:
    """`PruningLayer._wait` for a layer that one graph holds with its attention."""
    is_first = _traced.layer is None
    _traced.layer = layer if is_first else None
    return is_first


@torch.compiler.disable
def _take_eager() -> PruningLayer | None:
    layer = _eager.layer
    _eager.layer = None
    return layer


@torch.compiler.disable
def _leave_eager(layer: PruningLayer) -> bool:
    """False if another one waits already."""
    is_first = _eager.layer is None
    _eager.layer = layer if is_first else None
    return is_first


class PruningLayer(CacheLayerMixin):
    """Base of `A2SFLayer`, where all KV heads have one budget, and of `RaggedLayer`, where each has its own.

    `update` stores nothing: it hands the new keys and values on to the attention function, which appends them,
    because eviction may be due many times inside one long forward.
    """

    is_sliding = False
    is_compileable = False
    tuned_for: str | None = None
    """The cut that the policy was tuned for, one of `a2sf_core.cuts.CUTS`; None where nobody knows."""

    @abstractmethod
    def begin_forward(self, n: int) -> None:
        """Prepare for `n` new tokens: the first decoded token after a prompt cuts."""

    @abstractmethod
    def cut(self) -> None:
        """Evict down to the budget if prompt tokens have come since the last cut."""

    @abstractmethod
    def seal(self) -> None:
        """Cut now, for the last time: what is read from here on stays, except what `decode_every` evicts."""

    @property
    @abstractmethod
    def is_sealed(self) -> bool:
        """Whether `seal` was called."""

    @abstractmethod
    def fork(self) -> PruningLayer:
        """Another layer that goes on from here. Tensors are shared: reading more replaces them and changes none."""

    @abstractmethod
    def kept_counts(self) -> Tensor:
        """Tokens that a filled layer holds now, padding not counted: int64 `[batch, kv_head]`."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Hand the new tokens on, `[batch, kv_head, new, dim]`; transformers calls this right before the attention."""
        if not self._wait():
            raise A2SFError(
                "an A2SF cache was passed to a model that is not attached; run the model inside "
                "`with attach(policy, model):`."
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.begin_forward(key_states.shape[-2])
        return key_states, value_states

    def _wait(self) -> bool:
        """Leave this layer for the attention function. False if one waits that no attention function has taken."""
        return _leave_eager(self)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length, offset) of the mask that transformers would make; ours is made from positions."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    @property
    def is_croppable(self) -> bool:
        """False; raises A2SFError where that is asked in order to roll back."""
        # generate asks this after the prompt of assisted decoding; on Apple GPUs of every decoding.
        if not self.is_initialized or self.device.type != "mps":
            self._refuse_rollback()
        return False

    def activate_past_recording(self) -> None:
        """Raises A2SFError: evicted tokens are gone."""
        self._refuse_rollback()

    def crop(self, tokens_to_remove: int) -> None:
        """Raises A2SFError, unless nothing is to be removed."""
        if tokens_to_remove != 0:
            self._refuse_rollback()

    def _refuse_rollback(self) -> NoReturn:
        raise A2SFError(_NO_ROLLBACK)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows of beam search, int64 `[batch]`."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times, next to each other."""
        if self.is_initialized:
            rows = torch.arange(len(self.kept_counts()), device=self.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    @abstractmethod
    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
