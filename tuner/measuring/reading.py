"""Running the model: prompts are read whole, answers over what is kept of them. Nothing is chosen or counted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import Cache

from a2sf_core.cache import A2SFCache
from a2sf_core.observe import read_prompt
from a2sf_core.placement import input_device
from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import ScoreRule
from a2sf_core.switch import attach, cache_argument
from tuner.inputs.encoding import Encoded
from tuner.measuring.answers import AnswerCache, answering
from tuner.measuring.bank import Bank
from tuner.measuring.batch import LayerBuilder, PromptBatch, pad
from tuner.measuring.head import Head
from tuner.measuring.keeping import keep_masks
from tuner.measuring.losses import FullAnswers, JudgedText

Watcher = Callable[
    [int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor, torch.Tensor], None
]
"""Called with a layer's index, bool `[batch, read]` of the queries that count (they predict a token, or ask), query
`[batch, kv_head, group * read, dim]`, key and value `[batch, kv_head, kept + new, dim]`, scale, bias
`[batch, kv_head or 1, group * read, kept + new]` and output `[batch, kv_head, group * read, dim]`."""


Samples = Sequence[Encoded] | Mapping[int, Encoded]
"""By their places among all; of a mapping some may be missing."""


class Reader:
    """A model in eval mode, the samples that it reads, and the rules that rank their tokens: `bank`."""

    def __init__(self, model: Any, samples: Samples, bank: Bank, learn_from: Sequence[float] = ()) -> None:
        """`learn_from`: half-lives whose sums are held besides, so that rules can be learned from them."""
        self.model, self._samples, self.bank = model, samples, bank
        self.learn_from = tuple(learn_from)
        self._n_layers: int = model.config.get_text_config().num_hidden_layers
        self._cache_argument = cache_argument(model)
        self.head = Head(model)

    def learn(self, own: Sequence[ScoreRule]) -> tuple[float, ...]:
        """Rank by one rule more for each layer from now on, and hold no sums. Returns the half-lives that were held."""
        held, self.learn_from = self.learn_from, ()
        self.bank = replace(self.bank, own=tuple(own))
        return held

    def read(self, rows: list[int], done: Callable[[], None] = lambda: None) -> PromptBatch:
        """The samples `rows` as a batch, judged along their reference answers; `done` is called after each prompt."""
        device = input_device(self.model)
        chosen = [self._samples[index] for index in rows]
        distinct = list(dict.fromkeys(sample.prompt_ids for sample in chosen))
        held = torch.tensor([distinct.index(sample.prompt_ids) for sample in chosen], device=device)  # [batch]
        prompts, mask = pad(distinct, device, left=True)
        places = [self.bank.shared.index(Decay(half_life)) for half_life in self.learn_from]
        builders: list[LayerBuilder] = []
        logits = []
        # One by one: without padding the causal blocks can be skipped, which is faster than a batch.
        for row, prompt_ids in enumerate(distinct):
            ids = torch.tensor([prompt_ids], device=device)
            prompt = read_prompt(self.model, ids, None, self.bank.shared, own=self.bank.own)
            builders = builders or [LayerBuilder(layer, mask, places) for layer in prompt.layers]
            for builder, layer in zip(builders, prompt.layers, strict=True):
                builder.put(row, layer)
            logits.append(prompt.logits)
            for _ in range(int((held == row).sum())):
                done()
        batch = PromptBatch(
            rows, mask.sum(-1)[held], mask[held], prompts[held], [builder.layer for builder in builders], held,
            torch.cat(logits)[held], *pad([sample.question_ids for sample in chosen], device, left=False),
        )  # fmt: skip
        return self.judged_along(batch, [sample.answer_ids for sample in chosen])

    def judged_along(self, batch: PromptBatch, texts: Sequence[Sequence[int]]) -> PromptBatch:
        """`batch` with one text more for each of its prompts, and what the full cache says of it."""
        ids, valid = pad(texts, batch.mask.device, left=False)
        with answering(self.model), self.head.states() as seen:
            logits = self.follow(batch, self.all_of(batch), ids, valid)  # [batch, token, vocab]
        full = FullAnswers.of(logits, valid, self.head.behind(logits, seen))
        return replace(batch, texts=(*batch.texts, JudgedText(ids, valid, full)))

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
        self,
        batch: PromptBatch,
        keep: list[torch.Tensor],
        texts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        watch: Watcher | None = None,
    ) -> list[torch.Tensor]:
        """The same for several texts over the slots in `keep`: these are gathered, and questions read, once for all.

        `watch` is called with every attention of the questions' and the texts' tokens.
        """
        asked = self.ask(batch, keep, max(ids.shape[1] for ids, _ in texts) - 1, watch=watch)
        before = torch.cat([batch.mask, batch.question_valid], -1)  # [batch, key + question]
        found = []
        for ids, valid in texts:
            logits = asked.logits[:, None]  # [batch, 1, vocab]
            if ids.shape[1] > 1:
                asked.cache.rewind()
                _watch(asked.cache, watch, valid[:, 1:])
                rest = self.read_on(before, asked.n_read, asked.cache, ids[:, :-1], valid[:, :-1])
                logits = torch.cat([logits, rest], 1)
            found.append(logits)
        return found

    @torch.no_grad()
    def ask(
        self,
        batch: PromptBatch,
        keep: Sequence[torch.Tensor],
        room: int,
        places: Sequence[int] | None = None,
        watch: Watcher | None = None,
    ) -> Asked:
        """Gather the slots in `keep` and read the questions over them, where there are some.

        Inside `answering(model)`. The cache has room for `room` tokens more; `places` are rows of `batch`, None for
        all.
        """
        rows = slice(None) if places is None else list(places)  # a list picks on any device
        questions, valid = batch.questions[rows], batch.question_valid[rows]
        width = questions.shape[1]
        stored = [(layer.keys, layer.values) for layer in batch.layers]
        cache = AnswerCache.gather(stored, [mask[rows] for mask in keep], width + room, batch.held[rows])
        n_tokens, logits = batch.n_tokens[rows], batch.first_logits[rows]
        if not width:
            return Asked(cache, n_tokens, logits)
        _watch(cache, watch, valid)
        lengths = valid.sum(-1)  # [batch]
        fewest = int(lengths.min())
        # Of the vocabulary's logits only those that may predict an answer's first token are made.
        read = self.read_on(batch.mask[rows], n_tokens, cache, questions, valid, 0, width - max(fewest, 1) + 1)
        read = read if fewest else torch.cat([logits[:, None], read], 1)
        cache.settle(valid)
        return Asked(cache, n_tokens + lengths, read[torch.arange(len(read), device=read.device), lengths - fewest])

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
        lengths = batch.question_valid.sum(-1)  # [batch]
        order, found = [], []
        for length in lengths.unique().tolist():  # in serving no padding stands between a context and its question
            rows = (lengths == length).nonzero()[:, 0]
            order.append(rows)
            found.append(self._run(batch, rows, length, policy, tokens, valid))
        back = torch.cat(order).argsort()
        logits = torch.cat([each for each, _ in found])[back]
        return logits, [torch.cat(parts)[back] for parts in zip(*(kept for _, kept in found), strict=True)]

    def _run(
        self, batch: PromptBatch, rows: torch.Tensor, n_question: int, policy: Policy, tokens: torch.Tensor,
        valid: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
        """`follow_attached` for `rows` whose questions have `n_question` tokens."""
        mask, n_read, tokens, valid = batch.mask[rows], batch.n_tokens[rows], tokens[rows], valid[rows]
        cache = A2SFCache(policy)
        with attach(policy, self.model):
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)  # [batch, key]
            first = self._forward(batch.prompts[rows], mask, positions, cache, 1)  # [batch, 1, vocab]
            if n_question:
                cache.seal()
            else:
                cache.cut()
            kept = [layer.kept_counts().to(mask.device) for layer in cache.layers]
            if n_question:
                questions, whole = batch.questions[rows, :n_question], batch.question_valid[rows, :n_question]
                first = self.read_on(mask, n_read, cache, questions, whole, 0, 1)
                mask, n_read = torch.cat([mask, whole], -1), n_read + n_question
            rest = [
                self.read_on(mask, n_read, cache, tokens[:, i : i + 1], valid[:, : i + 1], i)
                for i in range(tokens.shape[1] - 1)
            ]
        return torch.cat([first, *rest], 1), kept

    def read_on(
        self,
        before: torch.Tensor,
        n_read: torch.Tensor,
        cache: Cache,
        texts: torch.Tensor,
        valid: torch.Tensor,
        start: int = 0,
        last: int = 0,
    ) -> torch.Tensor:
        """Logits `[batch, token, vocab]` after reading `texts` `[batch, token]`, which begin at token `start`.

        That is behind the places `before` (bool `[batch, key]`), of which `n_read` `[batch]` are tokens. Of the `last`
        tokens only, or of all for 0.
        """
        mask = torch.cat([before, valid], -1)
        steps = torch.arange(start, start + texts.shape[1], device=mask.device)
        return self._forward(texts, mask, n_read[:, None] + steps, cache, last)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache, last: int = 0
    ) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=last,
            **{self._cache_argument: cache},
        )
        return output.logits


def _watch(cache: AnswerCache, watch: Watcher | None, counted: torch.Tensor) -> None:
    if watch:
        for index, layer in enumerate(cache.layers):
            layer.watch = partial(watch, index, counted)


@dataclass(frozen=True)
class Asked:
    """Rows of a batch up to where their answers begin.

    cache: what is kept of the prompts, and the questions. n_read: `[row]`, tokens of both. logits: `[row, vocab]`,
    which predict the first token of any answer.
    """

    cache: AnswerCache
    n_read: torch.Tensor
    logits: torch.Tensor
