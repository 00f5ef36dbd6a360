"""Text that a model writes greedily over kept keys and values: when it ends, and how it goes on, token by token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from tuner.measuring.answers import AnswerCache
from tuner.measuring.batch import PromptBatch
from tuner.measuring.reading import Reader

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

    def start_of(self, text: Text) -> Text:
        """The start of `text` to where writing it would have ended."""
        ends = (stop for stop in range(1, len(text) + 1) if self.over(text[:stop]))
        return text[: next(ends, len(text))]


@dataclass(frozen=True)
class Begun:
    """Rows of a batch that are to be written: what is kept and read of them, and the first token, `[row]`."""

    samples: list[int]
    cache: AnswerCache
    n_tokens: torch.Tensor
    first: torch.Tensor

    @classmethod
    def of(cls, reader: Reader, batch: PromptBatch, keep: Sequence[torch.Tensor], rows: Collection[int]) -> Begun:
        """The samples `rows` of `batch`, of which bool `[batch, kv_head, key]` per layer is kept.

        Inside `answering(model)`, as questions are read where there are some.
        """
        places = [place for place, row in enumerate(batch.samples) if row in rows]
        asked = reader.ask(batch, keep, 0, places)
        return cls([batch.samples[place] for place in places], asked.cache, asked.n_read, asked.logits.argmax(-1))


@torch.no_grad()
def go_on(
    reader: Reader, begun: Sequence[Begun], ends: Ends, done: Callable[[], None] = lambda: None
) -> dict[int, Text]:
    """The texts of all rows of `begun`, written together, by sample; inside `answering(model)`.

    `done` is called as each of them is over.
    """
    if not begun:
        return {}
    cache = AnswerCache.join([each.cache for each in begun], ends.most - 1)
    n_read = torch.cat([each.n_tokens for each in begun])  # [row]
    tokens = torch.cat([each.first for each in begun])  # [row]
    texts = [[token] for token in tokens.tolist()]
    over = [ends.over(text) for text in texts]
    for _ in filter(None, over):
        done()
    while not all(over):
        tokens = reader.step(tokens, n_read, cache).argmax(-1)
        n_read = n_read + 1
        for place, token in enumerate(tokens.tolist()):
            if not over[place]:
                texts[place].append(token)
                over[place] = ends.over(texts[place])
                if over[place]:
                    done()
    samples = [row for each in begun for row in each.samples]
    return {row: tuple(text) for row, text in zip(samples, texts, strict=True)}
