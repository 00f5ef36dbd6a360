"""Which prompts are to be held, and what is to be known of them: a description that can be sent elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.inputs.encoding import Encoded
from tuner.measuring.bank import Bank
from tuner.measuring.texts import Ends


@dataclass(frozen=True)
class Portion:
    """What a holder holds.

    samples: all that there are. blocks: those to hold, by their index; each a list of batches of places in `samples`.
    bank: the rules that rank tokens. learn_from: half-lives in the bank whose sums are held, so that rules can be
    learned from them. ends: of the texts that the full cache writes, along which policies are judged too; None: along
    the reference answers alone. memory: bytes for what is held; None for no limit. attached: every policy is measured
    by really running it.
    """

    samples: Sequence[Encoded]
    blocks: Mapping[int, Sequence[list[int]]]
    bank: Bank
    learn_from: tuple[float, ...] = ()
    ends: Ends | None = None
    memory: int | None = None
    attached: bool = False

    def rows(self, index: int) -> list[int]:
        """The samples of block `index`, in the order of its batches."""
        return [row for batch in self.blocks[index] for row in batch]

    def part(self, index: int, count: int) -> Portion:
        """What holder `index` of `count` holds: every so manieth block, so that all are busy from the first one on."""
        return replace(self, blocks={place: self.blocks[place] for place in self.blocks if place % count == index})
