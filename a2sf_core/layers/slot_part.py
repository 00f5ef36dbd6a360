"""KV heads with one budget in buffers of static shape: made of a layer that has been cut, and turned back into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2sf_core.errors import A2SFError
from a2sf_core.half_life import alpha_of
from a2sf_core.kernels import readiness
from a2sf_core.layer_policy import ROUNDING, LayerPolicy
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.plain import slots as plain
from a2sf_core.plain.slots import Ring, Slots
from a2sf_core.selection import empty_slots, keep_from_positions

# Queries scored together at most: one more pass over the keys for every 32 over keys and values.
RING = 32


@dataclass
class Clock:
    """Where decoding stands, on the device, so that a replayed graph goes on by itself. All are int64 `[1]`.

    Attributes:
        now: position of the next token.
        decoded: tokens decoded so far.
        turn: tokens decoded since holes were last looked for.
    """

    now: Tensor
    decoded: Tensor
    turn: Tensor

    @classmethod
    def starting_at(cls, position: int, device: torch.device) -> Clock:
        """For a next token at `position`."""
        now = torch.full((1,), position, device=device)
        return cls(now, torch.zeros_like(now), torch.zeros_like(now))

    def tick(self) -> None:
        """One token has passed."""
        for count in (self.now, self.decoded, self.turn):
            count.add_(1)


class SlotPart:
    """KV heads with one budget: an `A2SFLayer` whose tokens have moved into `Slots`.

    Attributes:
        slots: the buffers.
        evicts: tokens go while decoding.
        folds: scores are kept up while decoding.
    """

    def __init__(self, layer: A2SFLayer, group: int, clock: Clock, steps: int) -> None:
        """Take over the tokens of `layer`, which gives them up, with room for `steps` more.

        Asks the host for two counts, once. `group` is the number of query heads per KV head.
        """
        if layer.half_lives and layer.recent_queries.most:
            raise A2SFError(
                f"decode keeps up sums of attention or a window, and {layer.policy.rule}, or what observes this cache, "
                "needs both; use model.generate, or an A2SFCache(policy) of another rule."
            )
        self._layer, self._clock = layer, clock
        self._n_valid = layer.n_valid  # [batch], when decoding begins
        self._left_padding = layer.left_padding
        self._operations = _operations(layer.keys, layer.values)
        self._scale = 1.0
        self._sliding_window: int | None = None
        self.evicts = layer.policy.budget is not None and layer.decode_every is not None
        self.folds = bool(layer.half_lives)

        order, kept = _by_position(layer.positions)
        capacity, n_free = kept + steps, steps
        if layer.decode_every is not None and self.evicts:
            most = layer.policy.budget_tokens(int(self._n_valid.max()) + steps)  # a fraction grows with the answer
            capacity = min(capacity, max(kept, most + layer.decode_every))
            n_free = min(steps, layer.decode_every)
        positions = _moved(layer.positions.int(), order, kept, capacity, -1)
        self.slots = Slots(
            keys=_moved(layer.keys, order, kept, capacity, 0),
            values=_moved(layer.values, order, kept, capacity, 0),
            positions=positions,
            free=empty_slots(positions, n_free).contiguous(),
            scores=tuple(_moved(each, order, kept, capacity, 0) for each in layer.scores),
            ring=self._ring(group, min(RING, n_free)),
            filled=capacity if self.evicts else kept,
            now=clock.now,
            turn=clock.turn if self.evicts else clock.decoded,
        )
        # One at a time gives its tensors up, so that there is never more than one layer held twice.
        layer.keys, layer.values = layer.keys[:, :, :0].clone(), layer.values[:, :, :0].clone()
        layer.positions, layer.scores = layer.positions[:, :, :0].clone(), layer.scores[..., :0].clone()

    @property
    def keys(self) -> Tensor:
        """`[batch, kv_head, slot, dim]`."""
        return self.slots.keys

    @property
    def values(self) -> Tensor:
        """`[batch, kv_head, slot, dim]`."""
        return self.slots.values

    @property
    def positions(self) -> Tensor:
        """int32 `[batch, kv_head, slot]`, -1 for empty slots."""
        return self.slots.positions

    @property
    def left_padding(self) -> Tensor:
        """int64 `[batch]`: padding tokens before the first token of each row."""
        return self._left_padding

    def accumulated(self, half_life: float) -> Tensor:
        """float32 `[batch, kv_head, slot]`, up to date after `fold`."""
        return self.slots.scores[self._layer.half_lives.index(half_life)]

    def attention_of_last(self, n_queries: int) -> Tensor:
        """float32 `[batch, kv_head, slot]`: the plain sum over the last queries, which the ring holds."""
        return plain.window_scores(self.slots, n_queries, self._scale, self._sliding_window)

    def _ring(self, group: int, size: int) -> Ring | None:
        layer = self._layer
        if layer.recent_queries.most:
            size = layer.recent_queries.most
        elif not self.folds:
            return None
        batch, kv_heads, _, dim = layer.keys.shape
        ring = Ring(
            layer.keys.new_zeros(batch, kv_heads * group, size, dim),
            torch.zeros(batch, kv_heads * group, size, device=layer.keys.device),
            torch.full((batch, size), -1, dtype=torch.int32, device=layer.keys.device),
        )
        if layer.recent_queries.held is not None:
            queries, valid = layer.recent_queries.held
            at = torch.arange(layer.seen - queries.shape[2], layer.seen, device=queries.device)  # [query]
            ring.queries[:, :, at % size] = queries
            ring.positions[:, at % size] = at.masked_fill(~valid, -1).int()
        return ring

    # ---- one token --------------------------------------------------------------------------------------

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, sliding_window: int | None) -> Tensor:
        """`slots.attend`: take in one token and attend over all."""
        self._scale, self._sliding_window = scale, sliding_window
        return self._operations.attend(self.slots, query, key, value, scale, sliding_window)

    def fold(self) -> None:
        """Bring the scores up to date, if any are kept up."""
        if self.folds:
            alphas = [alpha_of(half_life) for half_life in self._layer.half_lives]
            self._operations.fold(self.slots, alphas, self._scale, self._sliding_window)

    def evict(self) -> None:
        """Drop down to the budgets, which are reckoned on the device, and look for the holes. Folds first."""
        if not self.evicts:
            return
        self.fold()
        slots, policy = self.slots, self._layer.policy
        budget, recent = _budget(policy, self._n_valid + self._clock.decoded)  # [batch], [batch] or None
        keep = keep_from_positions(
            policy.ranked_by.rank(self),
            slots.positions,
            budget[:, None, None],
            policy.sink,
            None if recent is None else recent[:, None, None],
        )
        slots.positions.masked_fill_(~keep, -1)
        for scores in slots.scores:
            scores.masked_fill_(~keep, 0)
        slots.free.copy_(empty_slots(slots.positions, slots.free.shape[-1]))

    # ---- afterwards -------------------------------------------------------------------------------------

    def restore(self, decoded: int, since_cut: int) -> None:
        """Give the tokens back to the layer, in order, with `decoded` more."""
        if decoded:
            self.fold()
        layer, slots = self._layer, self.slots
        order, kept = _by_position(slots.positions)
        layer.keys = _moved(slots.keys, order, kept, kept, 0)
        layer.values = _moved(slots.values, order, kept, kept, 0)
        layer.positions = _moved(slots.positions.long(), order, kept, kept, -1)
        if slots.scores:
            layer.scores = torch.stack([_moved(each, order, kept, kept, 0) for each in slots.scores])
        layer.seen += decoded
        layer.is_dense = layer.heads_agree = False
        layer.has_empty = bool((layer.positions < 0).any())
        layer._decoded = since_cut
        if layer.recent_queries.most and slots.ring is not None:
            size = slots.ring.positions.shape[1]
            at = torch.arange(max(0, layer.seen - size), layer.seen, device=layer.keys.device) % size
            valid = slots.ring.positions[:, at] >= 0
            layer.recent_queries.reset()
            layer.recent_queries.add(slots.ring.queries[:, :, at], valid, self._scale, self._sliding_window)


def _operations(keys: Tensor, values: Tensor) -> Any:
    """The module whose `attend` and `fold` serve this device and these head sizes."""
    if keys.is_cuda and keys.shape[-1] == values.shape[-1] and readiness.is_ready(keys.device):
        from a2sf_core.kernels import decode

        return decode
    return plain


def _budget(policy: LayerPolicy, n_valid: Tensor) -> tuple[Tensor, Tensor | None]:
    """Budget and recent tokens of a policy for int64 `[batch]`, on the device; None for no recent tokens."""
    budget = policy.budget[0] if isinstance(policy.budget, tuple) else policy.budget
    assert budget is not None
    if isinstance(budget, float):
        wanted = (n_valid.double() * budget - ROUNDING).ceil().long()
    else:
        wanted = torch.full_like(n_valid, budget)
    tokens = torch.minimum(wanted.clamp(min=1), n_valid)  # [batch]
    if not policy.recent:
        return tokens, None
    if isinstance(policy.recent, float):
        return tokens, (tokens.double() * policy.recent + ROUNDING).floor().long()
    return tokens, tokens.clamp(max=policy.recent)


def _by_position(positions: Tensor) -> tuple[Tensor, int]:
    """Slots in the order of their tokens, empty ones last, and the most tokens that any row and head holds."""
    last = torch.iinfo(positions.dtype).max
    order = positions.masked_fill(positions < 0, last).argsort(dim=-1, stable=True)  # [batch, kv_head, slot]
    return order, int((positions >= 0).sum(-1).max())


def _moved(tensor: Tensor, order: Tensor, kept: int, capacity: int, filler: int) -> Tensor:
    """The first `kept` slots by `order`, in a new tensor with `capacity` slots."""
    order = order[..., :kept]  # [batch, kv_head, kept]
    if tensor.dim() == 4:
        order = order.unsqueeze(-1).expand(*order.shape, tensor.shape[-1])
    moved = tensor.new_full((*tensor.shape[:2], capacity, *tensor.shape[3:]), filler)
    torch.gather(tensor, 2, order, out=moved[:, :, :kept])
    return moved
