"""Running the model: prompts are read whole, answers over what is kept of them. Nothing is chosen or counted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import Cache

from a2sf_core.cache import A2SFCache
from a2sf_core.observe import read_prompt
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.switch import attach, cache_argument
from tuner.inputs.encoding import Encoded
from tuner.measuring.answers import AnswerCache, answering
from tuner.measuring.batch import LayerBuilder, PromptBatch, keep_masks, pad
from tuner.measuring.losses import FullAnswers, JudgedText


class Reader:
    """A model in eval mode, the samples that it reads, and the rules that rank their tokens: `bank`."""

    def __init__(self, model: Any, samples: Sequence[Encoded], bank: Sequence[ScoreRule]) -> None:
        self.model, self._samples, self.bank = model, samples, bank
        self._n_layers: int = model.config.get_text_config().num_hidden_layers
        self._cache_argument = cache_argument(model)

    def read(self, rows: list[int], done: Callable[[], None] = lambda: None) -> PromptBatch:
        """The samples `rows` as a batch, judged along their reference answers; `done` is called after each prompt."""
        device = self.model.device
        chosen = [self._samples[index] for index in rows]
        prompts, mask = pad([sample.prompt_ids for sample in chosen], device, left=True)
        builders: list[LayerBuilder] = []
        first_logits = []
        # One by one: without padding the causal blocks can be skipped, which is faster than a batch.
        for row, sample in enumerate(chosen):
            ids = torch.tensor([sample.prompt_ids], device=device)
            prompt = read_prompt(self.model, ids, None, self.bank)
            builders = builders or [LayerBuilder(layer, mask) for layer in prompt.layers]
            for builder, layer in zip(builders, prompt.layers, strict=True):
                builder.put(row, layer)
            first_logits.append(prompt.logits)
            done()
        layers = [builder.layer for builder in builders]
        batch = PromptBatch(rows, mask.sum(-1), mask, prompts, layers, torch.cat(first_logits))
        return self.judged_along(batch, [sample.answer_ids for sample in chosen])

    def judged_along(self, batch: PromptBatch, texts: Sequence[Sequence[int]]) -> PromptBatch:
        """`batch` with one text more for each of its prompts, and what the full cache says of it."""
        ids, valid = pad(texts, batch.mask.device, left=False)
        with answering(self.model):
            logits = self.follow(batch, self.all_of(batch), ids, valid)  # [batch, token, vocab]
        return replace(batch, texts=(*batch.texts, JudgedText(ids, valid, FullAnswers.of(logits[valid]))))

    def all_of(self, batch: PromptBatch) -> list[torch.Tensor]:
        """What the full cache keeps: bool `[batch, kv_head, key]` per layer."""
        return keep_masks(batch, Policy.full(self._n_layers), self.bank)

    def follow(
        self, batch: PromptBatch, keep: list[torch.Tensor], ids: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[batch, token, vocab]` of any text `ids` `[batch, token]`, with `valid` where there is a token.

        To be called inside `answering(model)`, which walks over the model's modules: once for many policies.
        """
        return self.follow_each(batch, keep, [(ids, valid)])[0]

    @torch.no_grad()
    def follow_each(
        self, batch: PromptBatch, keep: list[torch.Tensor], texts: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[torch.Tensor]:
        """The same for several texts over the slots in `keep`, which are gathered once."""
        room = max(ids.shape[1] for ids, _ in texts) - 1
        cache = AnswerCache.gather([(layer.keys, layer.values) for layer in batch.layers], keep, room) if room else None
        found = []
        for ids, valid in texts:
            logits = batch.first_logits[:, None]  # [batch, 1, vocab]
            if cache is not None and ids.shape[1] > 1:
                cache.rewind()
                logits = torch.cat([logits, self._read_on(batch, cache, ids[:, :-1], valid[:, :-1], 0)], 1)
            found.append(logits)
        return found

    @torch.no_grad()
    def step(self, tokens: torch.Tensor, n_read: torch.Tensor, cache: AnswerCache) -> torch.Tensor:
        """Logits `[row, vocab]` after one token more, int64 `[row]`, over `cache`, of rows that have read `n_read`."""
        mask = torch.ones(len(tokens), cache.get_seq_length() + 1, dtype=torch.bool, device=tokens.device)
        return self._forward(tokens[:, None], mask, n_read[:, None], cache)[:, -1]

    @torch.no_grad()
    def follow_attached(
        self, batch: PromptBatch, policy: Policy, tokens: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same from really running the model with `policy` attached: it reads the prompts again, and evicts as it
        would when serving. Also how many tokens each layer kept: int64 `[batch, kv_head]`."""
        cache = A2SFCache(policy)
        with attach(policy, self.model):
            positions = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)  # [batch, key]
            first = self._forward(batch.prompts, batch.mask, positions, cache)[:, -1:]  # [batch, 1, vocab]
            cache.cut()
            kept = [layer.kept_counts() for layer in cache.layers]
            rest = [
                self._read_on(batch, cache, tokens[:, i : i + 1], valid[:, : i + 1], i)
                for i in range(tokens.shape[1] - 1)
            ]
        return torch.cat([first, *rest], 1), kept

    def _read_on(
        self, batch: PromptBatch, cache: Cache, texts: torch.Tensor, valid: torch.Tensor, start: int
    ) -> torch.Tensor:
        """Logits `[batch, token, vocab]` after reading `texts` `[batch, token]`, which begin at token `start`."""
        mask = torch.cat([batch.mask, valid], -1)
        steps = torch.arange(start, start + texts.shape[1], device=mask.device)
        return self._forward(texts, mask, batch.n_tokens[:, None] + steps, cache)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            **{self._cache_argument: cache},
        )
        return output.logits
