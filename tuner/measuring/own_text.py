"""The second text that policies are judged along: what the full cache itself writes, which is what serving does.

It costs little where the model writes the reference answer anyway: then there is nothing to write and nothing to add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch
from tuner.measuring.reading import Reader, Samples
from tuner.measuring.texts import Begun, Ends, Text, go_on


class OwnTexts:
    """Writes them once per sample.

    Attributes:
        ends: when they are over.
        known: what the full cache writes, by sample, of those that were read by now.
    """

    def __init__(self, reader: Reader, samples: Samples, ends: Ends) -> None:
        self._reader, self._samples, self.ends = reader, samples, ends
        self.known: dict[int, Text] = {}

    def judged(self, block: Sequence[PromptBatch], done: Callable[[], None] = lambda: None) -> list[PromptBatch]:
        """`block`, judged along the own texts too in batches where they are not the references.

        `done` is called for every text, as it is known.
        """
        for batch in block:
            self._take_references(batch)
            for _ in filter(self.known.__contains__, batch.samples):
                done()
        self._write_others(block, done)
        found = []
        for batch in block:
            own = [self.known[row] for row in batch.samples]
            is_new = own != [self._samples[row].answer_ids for row in batch.samples]
            found.append(self._reader.judged_along(batch, own) if is_new else batch)
        return found

    def _take_references(self, batch: PromptBatch) -> None:
        """Know the texts that are the reference answer, which the full cache was just judged along."""
        reference = batch.texts[0]
        agrees = torch.zeros_like(reference.valid)  # [batch, token]
        agrees[reference.valid] = reference.full.top == reference.ids[reference.valid]
        for row, right in zip(batch.samples, agrees.tolist(), strict=True):
            answer = self.ends.start_of(self._samples[row].answer_ids)
            if self.ends.over(answer) and all(right[: len(answer)]):
                self.known[row] = answer

    def _write_others(self, block: Sequence[PromptBatch], done: Callable[[], None]) -> None:
        """Rows of all batches together: a step costs nearly the same however many there are."""
        begun = []
        with answering(self._reader.model):
            for batch in block:
                unknown = [row for row in batch.samples if row not in self.known]
                if unknown:
                    begun.append(Begun.of(self._reader, batch, self._reader.all_of(batch), unknown))
            self.known |= go_on(self._reader, begun, self.ends, done)
