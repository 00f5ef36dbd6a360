"""Which prompts are to be held, and what is to be known of them: a description that can be sent elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from tuner.inputs.encoding import Encoded
from tuner.measuring.bank import Bank
from tuner.measuring.texts import Ends


@dataclass(frozen=True)
class Portion:
    """What a holder holds.

    samples: by their place among all. blocks: those to hold, by their index; each a list of batches of such places.
    bank: the rules that rank tokens. learn_from: half-lives in the bank whose sums are held, so that rules can be
    learned from them. ends: of the texts that the full cache writes, along which policies are judged too; None: along
    the reference answers alone. memory: bytes for what is held; None for no limit. attached: every policy is measured
    by really running it.
    """

    samples: Mapping[int, Encoded]
    blocks: Mapping[int, Sequence[list[int]]]
    bank: Bank
    learn_from: tuple[float, ...] = ()
    ends: Ends | None = None
    memory: int | None = None
    attached: bool = False

    def rows(self, index: int) -> list[int]:
        """The samples of block `index`, in the order of its batches."""
        return [row for batch in self.blocks[index] for row in batch]

    def gathers(self, policy: Policy) -> bool:
        """True if `policy` is measured over what is picked from the prompts as read, False if by really running it."""
        return not self.attached and by_gathering(policy)

    def learned(self, own: Sequence[ScoreRule]) -> Portion:
        """The same with one rule more for each layer, or none, and nothing held to learn from."""
        return replace(self, bank=replace(self.bank, own=tuple(own)), learn_from=())

    def part(self, index: int, count: int) -> Portion:
        """What holder `index` of `count` holds: the blocks `index`, `index + count` and so on, so that all are busy."""
        blocks = {place: self.blocks[place] for place in self.blocks if place % count == index}
        rows = [row for batches in blocks.values() for batch in batches for row in batch]
        return replace(self, blocks=blocks, samples={row: self.samples[row] for row in rows})


def by_gathering(policy: Policy) -> bool:
    """True if `policy` cuts once, after the prompt, so that what it keeps can be picked from what was read."""
    return policy.evict == "prefill" and policy.decode_every is None
