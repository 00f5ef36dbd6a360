"""Each prompt is read once; a trial gathers the kept keys and values and runs the model over the answers only.

With ``evict: prefill`` the prompt's keys, values and attention do not depend on the policy (design.md, section 2). The
engine stores, per layer, half-life and KV head, the order of the tokens by score; any budget is a prefix of it.
Policies that evict while the prompt is read (``chunk``, ``step``) are measured by really running them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from a2sf_core.attach import cache_argument
from a2sf_core.cache import A2SFCache
from a2sf_core.errors import A2SFError
from a2sf_core.observe import PromptLayer, read_prompt
from a2sf_core.policy import LayerPolicy, Policy
from a2sf_core.selection import kept_from_order, order_by_score
from tuner.losses import Losses, token_losses
from tuner.prompts import Encoded

HALF_LIVES: tuple[float, ...] = (
    0, 0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, float("inf"),
)  # fmt: skip
"""The bank: half-lives in tokens that every prompt is scored for in one pass."""

SNAPKV_WINDOW = 16
"""Queries of the SnapKV-like baseline's voting window."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StoredLayer:
    """What one layer holds of a batch of prompts: keys and values ``[batch, kv_head, key, dim]`` and the token orders
    ``[score, batch, kv_head, key]`` (int32), one per half-life of the bank and then per window."""

    keys: torch.Tensor
    values: torch.Tensor
    orders: torch.Tensor


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, left-padded to one length, read once, with everything a trial needs.

    samples: indices into the engine's samples. n_tokens: ``[batch]``. mask: ``[batch, key]`` bool. first_logits:
    ``[batch, vocab]``, which predict the first answer token. answers and answer_valid: ``[batch, token]``.
    """

    samples: list[int]
    n_tokens: torch.Tensor
    mask: torch.Tensor
    prompts: torch.Tensor
    layers: list[StoredLayer]
    first_logits: torch.Tensor
    answers: torch.Tensor
    answer_valid: torch.Tensor
    full_log_probs: torch.Tensor


class Engine:
    """Measures policies on a fixed list of samples.

    Args:
        model: a transformers decoder in eval mode; it stays on its device.
        samples: tokenised prompts and reference answers.
        batch_tokens: prompt tokens that are read in one forward (memory against speed).
        progress: called with (prompts read, prompts in all).
    """

    def __init__(
        self,
        model: Any,
        samples: Sequence[Encoded],
        batch_tokens: int = 8192,
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        self.model = model
        self.samples = list(samples)
        self.n_layers: int = model.config.get_text_config().num_hidden_layers
        self.passes = 0
        self._measured: dict[Policy, Losses] = {}
        self._by_kept_tokens: dict[bytes, Losses] = {}
        self._batches: list[PromptBatch] = []
        for rows in self._plan(batch_tokens):
            self._batches.append(self._read(rows))
            progress(sum(len(batch.samples) for batch in self._batches), len(self.samples))
        order = [index for batch in self._batches for index in batch.samples]
        self._unsort = np.argsort(np.array(order))

    def _plan(self, batch_tokens: int) -> list[list[int]]:
        """Rows of similar length together, so that little is padded."""
        by_length = sorted(range(len(self.samples)), key=lambda i: len(self.samples[i].prompt_ids))
        plan: list[list[int]] = [[]]
        for index in by_length:
            if plan[-1] and (len(plan[-1]) + 1) * len(self.samples[index].prompt_ids) > batch_tokens:
                plan.append([])
            plan[-1].append(index)
        return plan

    def _read(self, rows: list[int]) -> PromptBatch:
        device = self.model.device
        chosen = [self.samples[index] for index in rows]
        prompts, mask = _pad([sample.prompt_ids for sample in chosen], device, left=True)
        answers, answer_valid = _pad([sample.answer_ids for sample in chosen], device, left=False)
        # One by one: without padding the causal blocks can be skipped, which is faster than a batch.
        read = [
            read_prompt(self.model, ids[real][None], None, HALF_LIVES, (SNAPKV_WINDOW,))
            for ids, real in zip(prompts, mask, strict=True)
        ]
        layers = [_stack([prompt.layers[index] for prompt in read], mask) for index in range(self.n_layers)]
        first_logits = torch.cat([prompt.logits for prompt in read])  # [batch, vocab]
        batch = PromptBatch(
            rows, mask.sum(-1), mask, prompts, layers, first_logits, answers, answer_valid, torch.empty(0)
        )
        full = self._answer(batch, self._kept(batch, Policy.full(self.n_layers)))  # [batch, token, vocab]
        return replace(batch, full_log_probs=full.float().log_softmax(-1))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values over all layers, uncut."""
        return sum(
            tensor.shape[1] * tensor.shape[3] * tensor.element_size()
            for layer in self._batches[0].layers
            for tensor in (layer.keys, layer.values)
        )

    def evaluate(self, policy: Policy) -> Losses:
        """Losses of ``policy`` on every sample; policies that keep the same tokens are computed once.

        Raises:
            A2SFError: if the policy has another number of layers, a half-life that is not in the bank, or a window
                other than the stored one.
        """
        if len(policy.layers) != self.n_layers:
            raise A2SFError(f"the policy has {len(policy.layers)} layers but the model has {self.n_layers}.")
        if policy not in self._measured:
            by_gathering = policy.evict == "prefill" and policy.decode_every is None
            self._measured[policy] = self._evaluate(policy) if by_gathering else self.evaluate_directly(policy)
        return self._measured[policy]

    def _evaluate(self, policy: Policy) -> Losses:
        kept = [self._kept(batch, policy) for batch in self._batches]
        key = _fingerprint(kept)
        if key not in self._by_kept_tokens:
            parts = [self._measure(batch, slots) for batch, slots in zip(self._batches, kept, strict=True)]
            self._by_kept_tokens[key] = Losses.join(parts, self._unsort)
            self.passes += 1
        return self._by_kept_tokens[key]

    def _kept(self, batch: PromptBatch, policy: Policy) -> list[torch.Tensor]:
        """Per layer the kept slots ``[batch, kv_head, kept]``, -1 where a row keeps fewer."""
        return [
            _kept_slots(layer, rule, batch.n_tokens) for layer, rule in zip(batch.layers, policy.layers, strict=True)
        ]

    def _measure(self, batch: PromptBatch, kept: list[torch.Tensor]) -> Losses:
        logits = self._answer(batch, kept)
        return _losses(batch, logits, [(slots >= 0).sum(-1) for slots in kept])

    @torch.no_grad()
    def _answer(self, batch: PromptBatch, kept: list[torch.Tensor]) -> torch.Tensor:
        """Logits ``[batch, token, vocab]`` of the answer tokens over the kept keys and values."""
        cache = A2SFCache.from_kept(
            [_gather(layer, slots) for layer, slots in zip(batch.layers, kept, strict=True)],
            batch.mask.shape[1],
        )
        return self._continue(batch, cache)

    def _continue(self, batch: PromptBatch, cache: A2SFCache) -> torch.Tensor:
        logits = batch.first_logits[:, None]  # [batch, 1, vocab]
        read = batch.answers.shape[1] - 1
        if read == 0:
            return logits
        with Policy.full(self.n_layers).attach(self.model):
            return torch.cat([logits, self._answer_tokens(batch, cache, 0, read)], 1)

    def _answer_tokens(self, batch: PromptBatch, cache: A2SFCache, start: int, stop: int) -> torch.Tensor:
        """Logits ``[batch, token, vocab]`` after reading answer tokens ``start`` to ``stop - 1``."""
        mask = torch.cat([batch.mask, batch.answer_valid[:, :stop]], -1)
        steps = torch.arange(start, stop, device=mask.device)
        return self._forward(batch.answers[:, start:stop], mask, batch.n_tokens[:, None] + steps, cache)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: A2SFCache
    ) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            **{cache_argument(self.model): cache},
        )
        return output.logits

    @torch.no_grad()
    def evaluate_directly(self, policy: Policy) -> Losses:
        """Losses from really running the attached model: it reads every prompt again. Slow, works for every policy."""
        parts = []
        for batch in self._batches:
            cache = policy.cache()
            with policy.attach(self.model):
                positions = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)  # [batch, key]
                first = self._forward(batch.prompts, batch.mask, positions, cache)[:, -1:]  # [batch, 1, vocab]
                cache.cut()
                kept = [(layer.positions >= 0).sum(-1) for layer in cache.layers]  # [batch, kv_head] each
                tokens = range(batch.answers.shape[1] - 1)
                rest = [self._answer_tokens(batch, cache, token, token + 1) for token in tokens]
            parts.append(_losses(batch, torch.cat([first, *rest], 1), kept))
        return Losses.join(parts, self._unsort)


def _losses(batch: PromptBatch, logits: torch.Tensor, kept: list[torch.Tensor]) -> Losses:
    """From the answers' logits ``[batch, token, vocab]`` and, per layer, counts of kept tokens ``[batch, kv_head]``."""
    figures = token_losses(logits, batch.answers, batch.answer_valid, batch.full_log_probs)
    shares = torch.stack([count.double().mean(-1) / batch.n_tokens for count in kept])  # [layer, batch]
    return Losses(**figures, cache_fraction=shares.mean(0).cpu().numpy())


def _stack(layers: list[PromptLayer], mask: torch.Tensor) -> StoredLayer:
    """One layer of several prompts, left-padded as ``mask`` ``[batch, key]`` says."""
    width = mask.shape[1]

    def padded(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        missing = width - tensor.shape[dim]
        shape = [*tensor.shape]
        shape[dim] = missing
        return torch.cat([tensor.new_zeros(shape), tensor], dim)

    scores = torch.cat([padded(layer.scores, 3) for layer in layers], 1)  # [score, batch, kv_head, key]
    return StoredLayer(
        torch.cat([padded(layer.keys, 2) for layer in layers]),
        torch.cat([padded(layer.values, 2) for layer in layers]),
        order_by_score(scores, mask[:, None]).int(),
    )


def _kept_slots(layer: StoredLayer, rule: LayerPolicy, n_tokens: torch.Tensor) -> torch.Tensor:
    """Kept slots ``[batch, kv_head, kept]`` of one layer for prompts of ``n_tokens`` ``[batch]``."""
    counts = n_tokens.tolist()
    budget = torch.tensor([rule.budget_tokens(n) for n in counts], device=n_tokens.device)  # [batch]
    recent = torch.tensor([rule.recent_tokens(b) for b in budget.tolist()], device=n_tokens.device)
    order = layer.orders[_score_index(rule)].long()  # [batch, kv_head, key]
    return kept_from_order(order, n_tokens[:, None], budget[:, None], rule.sink, recent[:, None])


def _score_index(rule: LayerPolicy) -> int:
    if rule.window is not None:
        if rule.window != SNAPKV_WINDOW:
            raise A2SFError(f"the engine stores scores for a window of {SNAPKV_WINDOW}, not {rule.window}.")
        return len(HALF_LIVES)
    if rule.half_life not in HALF_LIVES:
        raise A2SFError(f"half-life {rule.half_life:g} is not in the engine's bank; use one of {HALF_LIVES}.")
    return HALF_LIVES.index(rule.half_life)


def _gather(layer: StoredLayer, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = slots.clamp(min=0)[..., None]  # [batch, kv_head, kept, 1]
    keys = layer.keys.gather(2, index.expand(-1, -1, -1, layer.keys.shape[-1]))
    values = layer.values.gather(2, index.expand(-1, -1, -1, layer.values.shape[-1]))
    return keys, values, slots


def _pad(rows: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids ``[batch, token]`` and which of them are real; zeros on the left (prompts) or right (answers)."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(tokens)
        real[row, place] = True
    return ids.to(device), real.to(device)


def _fingerprint(kept: list[list[torch.Tensor]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for batch in kept:
        for slots in batch:
            digest.update(repr(tuple(slots.shape)).encode())
            digest.update(slots.int().cpu().numpy().tobytes())
    return digest.digest()
