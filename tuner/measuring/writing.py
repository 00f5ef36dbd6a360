"""What the model writes over kept keys and values, greedily: the text that serving would give, without reading again.

Most policies write what the full cache writes. So its text is the draft: one pass over it, as over any answer, says
where a policy would have gone on otherwise, as in speculative decoding (Leviathan et al., arXiv 2211.17192). Only texts
that part from it are written token by token, many rows at once, over what is kept alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from a2sf_core.policy import Policy
from tuner.measuring.answers import AnswerCache, answering
from tuner.measuring.batch import PromptBatch, pad
from tuner.measuring.engine import Engine

ROWS_AT_ONCE = 64
Text = tuple[int, ...]
"""Token ids as they were written, up to and with what ended them."""


@dataclass(frozen=True)
class Ends:
    """When a text is over: after `most` tokens, after one of `tokens`, or once `stopped` says so of all it has."""

    most: int
    tokens: frozenset[int]
    stopped: Callable[[Sequence[int]], bool] | None = None

    def over(self, text: Sequence[int]) -> bool:
        """True if nothing follows `text`."""
        return len(text) >= self.most or text[-1] in self.tokens or (self.stopped is not None and self.stopped(text))


class Writer:
    """Texts of an engine's samples, under any policy that the engine measures by gathering."""

    def __init__(self, engine: Engine, ends: Ends) -> None:
        self._engine, self._ends = engine, ends
        self._full = Policy.full(engine.n_layers)
        self._drafts: dict[int, Text] = {}
        self._same: dict[Policy, np.ndarray] = {}

    def drafts(self) -> list[Text]:
        """What the full cache writes, per sample. The reference answers are its own drafts."""
        if not self._drafts:
            samples = self._engine.samples
            guesses = [self._until_over(sample.answer_ids) for sample in samples]
            parted = np.flatnonzero(~self._follows(self._full, guesses))
            written = self._write(self._full, parted.tolist())
            self._drafts = {row: written.get(row, guess) for row, guess in enumerate(guesses)}
        return [self._drafts[row] for row in range(len(self._drafts))]

    def same(self, policy: Policy) -> np.ndarray:
        """bool `[sample]`: where `policy` writes what the full cache writes, token by token."""
        if policy not in self._same:
            self._same[policy] = self._follows(policy, self.drafts())
        return self._same[policy]

    def texts(self, policy: Policy, rows: Collection[int]) -> dict[int, Text]:
        """What is written under `policy`, for the samples `rows`."""
        drafts, same = self.drafts(), self.same(policy)
        written = self._write(policy, [row for row in rows if not same[row]])
        return {row: drafts[row] if same[row] else written[row] for row in rows}

    def _until_over(self, text: Text) -> Text:
        """The start of `text` to where writing it would have ended."""
        ends = (stop for stop in range(1, len(text) + 1) if self._ends.over(text[:stop]))
        return text[: next(ends, len(text))]

    @torch.no_grad()
    def _follows(self, policy: Policy, texts: Sequence[Text]) -> np.ndarray:
        """bool `[sample]`: where greedy writing under `policy` gives exactly `texts`, which must be over."""
        found = np.zeros(len(texts), dtype=bool)
        with answering(self._engine.model):
            for batch, keep in self._engine.batches(policy):
                own = [texts[row] for row in batch.samples]
                ids, valid = pad(own, batch.mask.device, left=False)
                top = self._engine.reader.follow(batch, keep, ids, valid).argmax(-1)  # [batch, token]
                agrees = ((top == ids) | ~valid).all(-1).tolist()
                found[batch.samples] = [yes and self._ends.over(text) for yes, text in zip(agrees, own, strict=True)]
        return found

    @torch.no_grad()
    def _write(self, policy: Policy, rows: Sequence[int]) -> dict[int, Text]:
        """Token by token, the samples `rows`; rows of several batches are written together."""
        texts: dict[int, Text] = {}
        waiting: list[_Begun] = []
        with answering(self._engine.model):
            for batch, keep in self._engine.batches(policy, rows):
                waiting.append(_begin(batch, keep, set(rows)))
                if sum(len(each.samples) for each in waiting) >= ROWS_AT_ONCE:
                    texts |= self._go_on(waiting)
                    waiting = []
            return texts | self._go_on(waiting)

    def _go_on(self, begun: Sequence[_Begun]) -> dict[int, Text]:
        if not begun:
            return {}
        cache = AnswerCache.join([each.cache for each in begun], self._ends.most - 1)
        n_read = torch.cat([each.n_tokens for each in begun])  # [row]
        tokens = torch.cat([each.first for each in begun])  # [row]
        texts = [[token] for token in tokens.tolist()]
        over = [self._ends.over(text) for text in texts]
        while not all(over):
            tokens = self._engine.reader.step(tokens, n_read, cache).argmax(-1)
            n_read = n_read + 1
            for place, token in enumerate(tokens.tolist()):
                if not over[place]:
                    texts[place].append(token)
                    over[place] = self._ends.over(texts[place])
        samples = [row for each in begun for row in each.samples]
        return {row: tuple(text) for row, text in zip(samples, texts, strict=True)}


@dataclass(frozen=True)
class _Begun:
    """Rows of a batch that are to be written: what is kept of them, and the first token, `[row]`."""

    samples: list[int]
    cache: AnswerCache
    n_tokens: torch.Tensor
    first: torch.Tensor


def _begin(batch: PromptBatch, keep: list[torch.Tensor], rows: set[int]) -> _Begun:
    places = [place for place, row in enumerate(batch.samples) if row in rows]
    stored = [(layer.keys[places], layer.values[places]) for layer in batch.layers]
    cache = AnswerCache.gather(stored, [mask[places] for mask in keep], 0)
    samples = [batch.samples[place] for place in places]
    return _Begun(samples, cache, batch.n_tokens[places], batch.first_logits[places].argmax(-1))
