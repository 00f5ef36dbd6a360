"""A layer of static shape, for decoding: made of a pruning layer that has been cut, and turned back into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor

from a2sf_core.errors import A2SFError
from a2sf_core.layers.base import PruningLayer, wait_traced
from a2sf_core.layers.ragged import Heads, RaggedLayer, heads_in_order
from a2sf_core.layers.slot_part import Clock, SlotPart
from a2sf_core.layers.whole import A2SFLayer


class SlotLayer(PruningLayer):
    """What the attention function finds in a cache while `a2sf_core.decoder` runs.

    Attributes:
        parts: one per distinct budget, as in a `RaggedLayer`, so that memory is what the budgets say.
        layer: the layer that this stands for.
    """

    def __init__(self, layer: A2SFLayer | RaggedLayer, group: int, clock: Clock, steps: int) -> None:
        """Cut `layer` if that is due, and take over its tokens; the arguments are those of `SlotPart`."""
        super().__init__()
        layer.cut()
        self.layer = layer
        self._seen = layer.get_seq_length()
        whole: list[tuple[Heads, A2SFLayer]] = [(slice(None), layer)] if isinstance(layer, A2SFLayer) else []
        pairs = whole or list(layer.groups())
        self._heads = [heads for heads, _ in pairs]
        self.parts = [SlotPart(part, group, clock, steps) for _, part in pairs]
        self.device, self.dtype = layer.device, layer.dtype
        self.is_initialized = True

    def groups(self) -> Iterator[tuple[Heads, SlotPart]]:
        """Each group's KV heads, as an index into the model's, and the part that holds them."""
        return zip(self._heads, self.parts, strict=True)

    def restore(self, decoded: int, since_cut: int) -> A2SFLayer | RaggedLayer:
        """The layer with its tokens back, `decoded` more than it had."""
        for part in self.parts:
            part.restore(decoded, since_cut)
        return self.layer

    # ---- what transformers calls ------------------------------------------------------------------------

    def _wait(self) -> bool:
        return wait_traced(self)

    def begin_forward(self, n: int) -> None:
        """One token at a time; anything else raises A2SFError."""
        if n != 1:
            raise A2SFError(f"{n} tokens came at once while decoding; close the Decoder before the next turn.")

    def get_seq_length(self) -> int:
        """Length when decoding began: positions come from the clock, and a number that grew would be compiled anew."""
        return self._seen

    def cut(self) -> None:
        """Nothing: that was done at the start."""

    @property
    def is_sealed(self) -> bool:
        """Whether the layer that this stands for is."""
        return self.layer.is_sealed

    def seal(self) -> None:
        """Raises A2SFError."""
        self._refuse()

    def fork(self) -> SlotLayer:
        """Raises A2SFError."""
        self._refuse()

    def kept_counts(self) -> Tensor:
        """Tokens held now, padding not counted: int64 `[batch, kv_head]`."""
        held = torch.cat([(part.slots.positions >= 0).sum(-1) for part in self.parts], dim=1)  # by group
        return heads_in_order(held, self._heads)

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing: it is never empty."""

    def reset(self) -> None:
        """Raises A2SFError."""
        self._refuse()

    def batch_select_indices(self, indices: Tensor) -> None:  # noqa: ARG002
        """Raises A2SFError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise A2SFError("a cache cannot be changed or forked while a Decoder runs on it; close the Decoder first.")
