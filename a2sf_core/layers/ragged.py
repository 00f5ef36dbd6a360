"""A layer whose KV heads keep unequal numbers of tokens, stored without any padding between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.base import PruningLayer
from a2sf_core.layers.whole import A2SFLayer
from a2sf_core.placement import local_heads

Heads = slice | Tensor
"""KV heads as an index: a slice where they are neighbours, which copies nothing, else int64 `[kv_head]`."""


Group = tuple[float | int | None, tuple[int, ...]]
"""A budget and the KV heads that have it."""


class RaggedLayer(PruningLayer):
    """KV heads with equal budgets share one plain `A2SFLayer`; the attention function runs the groups in turn.

    Heads attend independently of each other, so a group knows nothing of the others and a fraction in `recent`
    is one of the head's own budget.

    Attributes:
        parts: one layer per distinct budget, in the order of their first heads; each holds
            `[batch, kv_head of the group, slot, dim]`.
        keys, values: always None, as no one tensor holds all heads; ask the `parts`.
    """

    def __init__(self, policy: LayerPolicy, chunk: int | None = None, decode_every: int | None = None) -> None:
        """An empty layer for a policy whose budget has one entry per KV head."""
        super().__init__()
        self._policy, self._timing = policy, (chunk, decode_every)
        self._heads: list[Heads] = []  # known once the device is
        self._part(policy)

    def _part(self, policy: LayerPolicy) -> None:
        self._members = self._groups_of(policy)
        self.parts = [
            A2SFLayer(replace(policy, budget=budget, rule=policy.rule.of_heads(heads)), *self._timing)
            for budget, heads in self._members
        ]

    @staticmethod
    def _groups_of(policy: LayerPolicy) -> list[Group]:
        return [*policy.heads_by_budget()]

    def groups(self) -> Iterator[tuple[Heads, A2SFLayer]]:
        """Each group's KV heads, as an index into the model's, and the layer that holds them."""
        return zip(self._heads, self.parts, strict=True)

    # ---- what transformers calls ------------------------------------------------------------------------

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Learn device, dtype and heads from the first keys and values `[batch, kv_head, new, dim]`.

        Under tensor parallelism these are a process's part of the heads, and so are the budgets from here on.

        Raises:
            A2SFError: if there are as many budgets as neither the model's KV heads nor this process's part of them.
        """
        here = local_heads(key_states.shape[1], len(self._policy.budgets))
        if len(here) < len(self._policy.budgets):
            self._part(self._policy.of_heads(here))
        self.device, self.dtype = key_states.device, key_states.dtype
        self._heads = [_index(members, self.device) for _, members in self._members]
        for heads, part in self.groups():
            part.lazy_initialization(key_states[:, :, :0][:, heads], value_states[:, :, :0][:, heads])
        self.is_initialized = True

    def reset(self) -> None:
        """Back to an empty layer; the tensors are released."""
        for part in self.parts:
            part.reset()
        self.is_initialized = False

    def get_seq_length(self) -> int:
        """Logical length, evicted tokens included, so that positions go on after a cut."""
        return self.parts[0].seen

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        for part in self.parts:
            part.batch_select_indices(indices)

    def offload(self) -> None:
        """To the host."""
        for part in self.parts:
            part.offload()

    def prefetch(self) -> None:
        """Back to the device."""
        for part in self.parts:
            part.prefetch()

    # ---- what the cache calls ---------------------------------------------------------------------------

    def begin_forward(self, n: int) -> None:
        """Prepare for `n` new tokens: the first decoded token after a prompt cuts."""
        self.parts[0].tuned_for = self.tuned_for
        for part in self.parts:
            part.begin_forward(n)

    def cut(self) -> None:
        """Evict each head down to its budget if prompt tokens have come since the last cut."""
        for part in self.parts:
            part.cut()

    @property
    def is_sealed(self) -> bool:
        """Whether `seal` was called."""
        return self.parts[0].is_sealed

    def seal(self) -> None:
        """Cut every head now, for the last time: what is read from here on stays, except what `decode_every` evicts."""
        for part in self.parts:
            part.seal()

    def fork(self) -> RaggedLayer:
        """Another layer that goes on from here. Tensors are shared: reading more replaces them and changes none."""
        twin = copy(self)
        twin.parts = [part.fork() for part in self.parts]
        return twin

    def kept_counts(self) -> Tensor:
        """Tokens that a filled layer holds now, padding not counted: int64 `[batch, kv_head]`."""
        held = torch.cat([part.kept_counts() for part in self.parts], dim=1)  # [batch, kv_head], by group
        return heads_in_order(held, self._heads)


def heads_in_order(by_group: Tensor, groups: Sequence[Heads]) -> Tensor:
    """`[batch, kv_head]` in the order of the model's KV heads, from columns that stand group after group."""
    n = torch.arange(by_group.shape[1], device=by_group.device)  # [kv_head]
    return by_group[:, torch.cat([n[heads] for heads in groups]).argsort()]


def _index(members: tuple[int, ...], device: torch.device) -> Heads:
    first, last = members[0], members[-1]
    if last - first + 1 == len(members):
        return slice(first, last + 1)
    return torch.tensor(members, device=device)
