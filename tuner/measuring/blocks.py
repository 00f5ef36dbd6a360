"""How a block of prompts is read. It knows nothing of the holder, so that a holder that nobody needs is let go of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner.measuring.memory import enough_memory
from tuner.measuring.own_text import OwnTexts
from tuner.measuring.reading import Reader
from tuner.measuring.store import Block

Told = Callable[[], None]
"""Called for each piece of long work that is done."""


def nobody() -> None:
    """A `Told` that nobody listens to."""


class BlockReader:
    """Reads a block onto the devices of the model, with the texts that the full cache writes if it is given `own`.

    Args:
        plan: per block its batches, each the places of its samples.
        told: called for every prompt that was read and every own text that is known.

    Attributes:
        told: as above.
        bytes_per_token: keys and values of one token over all layers here, uncut; 0 before the first block.
    """

    def __init__(self, reader: Reader, plan: Sequence[Sequence[list[int]]], own: OwnTexts | None, told: Told) -> None:
        self._reader, self._plan, self._own, self.told = reader, plan, own, told
        self.bytes_per_token = 0

    def read(self, index: int) -> Block:
        """Block `index`.

        Raises:
            A2SFError: if memory runs out.
        """
        batches = self._plan[index]
        with enough_memory(f"reading {sum(map(len, batches))} prompts"):
            block = [self._reader.read(rows, self.told) for rows in batches]
            self.bytes_per_token = block[0].bytes_per_token
            return self._own.judged(block, self.told) if self._own else block
