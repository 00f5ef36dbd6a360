"""Budgets that follow the prompt: the tokens of all KV heads compete for one total.

Which head must keep much depends on the prompt, and once a head's scores are brought into nats
(`a2sf_core.rules.learned`) its tokens compare with those of any other. What a score promises is not always kept, and a
head's own budget knows how often, so a head keeps the geometric mean of the two (docs/heads.md). The cache and
the tuner both ask `dealt_out`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from a2sf_core.placement import of_all_processes
from a2sf_core.selection import safe_counts, safe_slots


def dealt_out(
    worth: Tensor, valid: Tensor, budget: Tensor, sink: Tensor, recent: Tensor, is_shared: bool = False
) -> Tensor:
    """How many tokens every head keeps of the sum of all budgets: between its own budget and what it would win.

    It would win where the tokens of all heads competed for the sum: the sink and the recent tokens that a head's own
    budget has room for stay; the rest goes to the tokens that are worth most, whichever heads they are in. Ties prefer
    the heads that come first.

    Args:
        worth: float32 `[batch, head, key]`, none negative; the heads of all layers.
        valid: bool `[batch, head, key]`.
        budget: int64 `[batch, head]`, tokens, at least 1.
        sink, recent: int64 `[batch, head]`, tokens.
        is_shared: other processes hold as many heads more, which compete as well.

    Returns:
        int64 `[batch, head]`.
    """
    n_valid = valid.sum(-1)  # [batch, head]
    budget = torch.minimum(budget, n_valid)
    n_sink, n_recent = safe_counts(budget, sink, recent)
    safe = safe_slots(valid, n_valid[..., None], n_sink[..., None], n_recent[..., None])  # [batch, head, key]
    competing = worth.masked_fill(safe, float("inf")).masked_fill(~valid, -1.0)
    here = slice(None)
    if is_shared:
        (competing, here), (budget, _) = of_all_processes(competing), of_all_processes(budget)
        n_valid = (competing >= 0).sum(-1)
    totals = budget.sum(-1)  # [batch]
    rows = zip(competing.flatten(1), totals.tolist(), strict=True)
    last = torch.stack([row.kthvalue(len(row) - total + 1).values for row, total in rows])[:, None, None]
    above, tied = (each.sum(-1) for each in (competing > last, competing == last))  # [batch, head]
    left = (totals - above.sum(-1))[:, None] - (tied.cumsum(-1) - tied)  # [batch, head], before this head's ties
    won = above + torch.minimum(left.clamp(min=0), tied)
    return _between(won, budget, n_valid)[:, here]


def _between(won: Tensor, budget: Tensor, n_valid: Tensor) -> Tensor:
    """The geometric mean of two ways to deal out one total, `[batch, head]` each, scaled up to that total."""
    won, budget, most = won.cpu(), budget.cpu(), n_valid.cpu()  # few numbers, and not every device has doubles
    mean = (won.double() * budget).sqrt()
    full = torch.zeros_like(won, dtype=torch.bool)  # heads that keep all they have
    while True:
        left = budget.sum(-1) - (most * full).sum(-1)  # [batch]
        scale = left / mean.masked_fill(full, 0).sum(-1).clamp(min=1)
        wanted = torch.where(full, most, mean * scale[:, None])
        over = wanted > most
        if not over.any():
            break
        full |= over
    wanted = wanted.round(decimals=6)
    whole = wanted.floor()
    left = budget.sum(-1) - whole.sum(-1).long()  # [batch], for the heads that lost most when rounded
    place = (wanted - whole).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # [batch, head]
    return (whole.long() + (place < left[:, None])).to(n_valid.device)
