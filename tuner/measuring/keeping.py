"""What a policy keeps of a batch of prompts: the same that it would keep when serving."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from a2sf_core.dealing import dealt_out
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.placement import local_heads
from a2sf_core.policy import Policy
from a2sf_core.selection import keep_from_order
from tuner.measuring.bank import Bank
from tuner.measuring.batch import PromptBatch, StoredLayer


def keep_masks(batch: PromptBatch, policy: Policy, bank: Bank) -> list[torch.Tensor]:
    """Per layer which slots `policy` keeps: bool `[batch, kv_head, key]`, on the layer's device.

    The orders held are those of `bank`. Under tensor parallelism the KV heads are those of this process.
    """
    lengths = batch.n_tokens.tolist()
    quotas = [_quota(lengths, layer, own) for layer, own in zip(batch.layers, policy.layers, strict=True)]
    kept = _dealt_out(batch, policy, quotas) if policy.by_prompt else [budget for budget, _ in quotas]
    found = []
    for index, (layer, own) in enumerate(zip(batch.layers, policy.layers, strict=True)):
        device = layer.orders.device
        order = layer.orders[bank.place(index, own)][batch.held.to(device)].long()  # [batch, kv_head, key]
        n_tokens = batch.n_tokens.to(device)[:, None]  # [batch, 1]
        found.append(keep_from_order(order, n_tokens, kept[index].to(device), own.sink, quotas[index][1].to(device)))
    return found


def _quota(lengths: Sequence[int], layer: StoredLayer, policy: LayerPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens to keep of prompts of `lengths`, and how many of them recent ones: `[batch, kv_head]`, or `[batch, 1]` for
    one budget."""
    if len(policy.budgets) > 1:
        policy = policy.of_heads(local_heads(layer.orders.shape[2], len(policy.budgets)))
    budgets = [policy.head_budget_tokens(n) for n in lengths]
    recents = [[policy.recent_tokens(budget) for budget in row] for row in budgets]
    return torch.tensor(budgets), torch.tensor(recents)


def _dealt_out(
    batch: PromptBatch, policy: Policy, quotas: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """What each layer's heads keep, `[batch, kv_head]`, of the budgets in `quotas`, those of this prompt being one."""
    device = batch.mask.device
    kept, sharing = [budget for budget, _ in quotas], [i for i, own in enumerate(policy.layers) if own.budget]
    if not sharing:
        return kept
    worth = [batch.layers[i].worth[0].to(device)[batch.held] for i in sharing]  # [batch, kv_head, key] each
    sinks = [torch.full_like(quotas[i][0], policy.layers[i].sink) for i in sharing]
    given = ([quotas[i][0] for i in sharing], sinks, [quotas[i][1] for i in sharing])
    heads = torch.cat(worth, 1)  # [batch, head, key]
    valid = batch.mask[:, None].expand(heads.shape)
    is_shared = worth[0].shape[1] < len(policy.layers[sharing[0]].budgets)
    budget, sink, recent = (torch.cat(columns, 1).to(device) for columns in given)  # [batch, head] each
    counts = dealt_out(heads, valid, budget, sink, recent, is_shared)  # [batch, head]
    for i, own in zip(sharing, counts.split([each.shape[1] for each in worth], 1), strict=True):
        kept[i] = own
    return kept


def kept_digest(keep: Sequence[Sequence[torch.Tensor]]) -> bytes:
    """Of the kept slots of a block, per batch and layer bool `[batch, kv_head, key]`."""
    digest = hashlib.blake2b(digest_size=16)
    for masks in keep:
        digest.update(torch.stack([mask.to(masks[0].device) for mask in masks]).cpu().numpy().tobytes())
    return digest.digest()
