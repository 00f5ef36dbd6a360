"""A layer whose KV heads keep as many tokens as the prompt in hand deserves, of a total that all layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from a2sf_core.dealing import dealt_out
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.base import PruningLayer
from a2sf_core.layers.ragged import Group, RaggedLayer

_Layer = TypeVar("_Layer", bound=PruningLayer)


class ByPromptLayer(RaggedLayer):
    """One part for every KV head, as each keeps a number of tokens of its own, which the cut finds.

    Attributes:
        others: all such layers of its cache, itself among them. Whichever is cut first deals out for all: a prompt is
            through all layers before any of them is cut.
    """

    others: Sequence[ByPromptLayer]

    @staticmethod
    def _groups_of(policy: LayerPolicy) -> list[Group]:
        return [(budget, (head,)) for head, budget in enumerate(policy.budgets)]

    @property
    def is_part(self) -> bool:
        """Whether other processes hold more of its KV heads."""
        return len(self.parts) < len(self._policy.budgets)

    def begin_forward(self, n: int) -> None:
        """Prepare for `n` new tokens: the first decoded token after a prompt cuts."""
        if n == 1:
            deal(self.others)
        super().begin_forward(n)

    def cut(self) -> None:
        """Evict each head down to what it was dealt if prompt tokens have come since the last cut."""
        deal(self.others)
        super().cut()

    def seal(self) -> None:
        """Cut every head now, for the last time."""
        deal(self.others)
        super().seal()


def together(layers: Sequence[_Layer]) -> list[_Layer]:
    """The layers of one cache, those of them introduced to each other that share a total."""
    sharing = [layer for layer in layers if isinstance(layer, ByPromptLayer)]
    for layer in sharing:
        layer.others = sharing
    return list(layers)


@torch.no_grad()
def deal(layers: Sequence[ByPromptLayer]) -> None:
    """Tell every KV head of these layers how much to keep at its next cut, unless that is known or nothing is to be."""
    parts = [part for layer in layers for part in layer.parts if part.policy.budget is not None]
    if not parts or not parts[0].is_uncut or parts[0].dealt:
        return
    device, n_valid = parts[0].device, parts[0].n_valid.tolist()  # [batch]
    budgets = [[part.policy.budget_tokens(n) for part in parts] for n in n_valid]
    recents = [[part.policy.recent_tokens(own) for part, own in zip(parts, row, strict=True)] for row in budgets]
    sinks = [[part.policy.sink for part in parts] for _ in n_valid]
    # After a second turn's prompt heads hold different numbers of tokens.
    width = max(part.positions.shape[-1] for part in parts)
    shape = len(n_valid), len(parts), width
    worth = torch.zeros(shape, device=device)  # [batch, head, slot]
    valid = torch.zeros(shape, dtype=torch.bool, device=device)
    for index, part in enumerate(parts):
        held = part.positions.shape[-1]
        worth[:, index, :held] = part.policy.rule.worth(part)[:, 0].to(device)
        valid[:, index, :held] = (part.positions[:, 0] >= 0).to(device)
    budget, sink, recent = (torch.tensor(rows, device=device) for rows in (budgets, sinks, recents))
    counts = dealt_out(worth, valid, budget, sink, recent, layers[0].is_part)  # [batch, head]
    for part, own in zip(parts, counts.T.tolist(), strict=True):
        part.dealt = own
