"""What the model writes over kept keys and values, greedily: the text that serving would give, without reading again.

Most policies write what the full cache writes. So its text is the draft: one pass over it, as over any answer, says
where a policy would have gone on otherwise, as in speculative decoding (Leviathan et al., arXiv 2211.17192). Only texts
that part from it are written token by token, many rows at once, over what is kept alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from a2sf_core.policy import Policy
from tuner.measuring.answers import answering
from tuner.measuring.batch import pad
from tuner.measuring.engine import Engine
from tuner.measuring.holder import Holder
from tuner.measuring.texts import ROWS_AT_ONCE, Begun, Ends, Text, go_on


class Writer:
    """Texts of an engine's samples, under any policy that the engine measures by gathering."""

    def __init__(self, engine: Engine, ends: Ends) -> None:
        self._engine, self._ends = engine, ends
        self._full = Policy.full(engine.n_layers)
        self._drafts: dict[int, Text] = {}
        self._same: dict[Policy, np.ndarray] = {}

    def drafts(self) -> list[Text]:
        """What the full cache writes, per sample: as the engine knows it, else with the references as its drafts."""
        if not self._drafts:
            known = self._engine.own_texts(self._ends)
            self._drafts = known or self._from([self._ends.start_of(each.answer_ids) for each in self._engine.samples])
        return [self._drafts[row] for row in range(len(self._drafts))]

    def _from(self, guesses: Sequence[Text]) -> dict[int, Text]:
        parted = np.flatnonzero(~self._follows(self._full, guesses))
        written = self._write(self._full, parted.tolist())
        return {row: written.get(row, guess) for row, guess in enumerate(guesses)}

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

    def _follows(self, policy: Policy, texts: Sequence[Text]) -> np.ndarray:
        """bool `[sample]`: where greedy writing under `policy` gives exactly `texts`, which must be over."""
        found = self._engine.everywhere(_agreeing, policy, texts)
        agrees = {row: yes for part in found for row, yes in part.items()}
        return np.array([agrees[row] and self._ends.over(text) for row, text in enumerate(texts)])

    def _write(self, policy: Policy, rows: Sequence[int]) -> dict[int, Text]:
        """Token by token, the samples `rows`."""
        # They may hold a tokenizer, which need not be sent to where it is known.
        ends = None if self._ends == self._engine.portion.ends else self._ends
        found = self._engine.everywhere(_written, policy, rows, ends)
        return {row: text for part in found for row, text in part.items()}


@torch.no_grad()
def _agreeing(holder: Holder, policy: Policy, texts: Sequence[Text]) -> dict[int, bool]:
    """By sample, whether every token of its text is the likeliest one under `policy`."""
    found: dict[int, bool] = {}
    with answering(holder.model):
        for batch, keep in holder.batches(policy):
            ids, valid = pad([texts[row] for row in batch.samples], batch.mask.device, left=False)
            top = holder.reader.follow(batch, keep, ids, valid).argmax(-1)  # [batch, token]
            found |= dict(zip(batch.samples, ((top == ids) | ~valid).all(-1).tolist(), strict=True))
    return found


@torch.no_grad()
def _written(holder: Holder, policy: Policy, rows: Sequence[int], given: Ends | None) -> dict[int, Text]:
    """Texts of the samples `rows` that are held here; rows of several batches are written together.

    `given`: when they are over, if not where the own texts are.
    """
    ends = given or holder.portion.ends
    assert ends is not None
    texts: dict[int, Text] = {}
    waiting: list[Begun] = []
    with answering(holder.model):
        for batch, keep in holder.batches(policy, rows):
            waiting.append(Begun.of(holder.reader, batch, keep, set(rows)))
            if sum(len(each.samples) for each in waiting) >= ROWS_AT_ONCE:
                texts |= go_on(holder.reader, waiting, ends)
                waiting = []
        return texts | go_on(holder.reader, waiting, ends)
