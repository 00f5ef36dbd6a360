"""Which samples are read and measured together: blocks, after each of which a policy can be given up, and batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_QUESTIONS = 16
"""On one prompt, in a batch: each row gathers what it keeps of the prompt, however few prompts a batch may hold."""


def plan(prompts: Sequence[tuple[int, ...]], batch_tokens: int, block_size: int, seed: int) -> list[list[list[int]]]:
    """Blocks of samples in random order; inside a block, batches of similar length, so that little is padded.

    Samples with one prompt stay together, so that it is read once.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    alike = list(groups.values())
    shuffled = np.random.default_rng(seed).permutation(len(alike))
    n_blocks = max(1, min(len(alike), round(len(prompts) / block_size)))
    blocks = []
    for block in np.array_split(shuffled, n_blocks):
        by_length = sorted((alike[i] for i in block.tolist()), key=lambda group: len(prompts[group[0]]))
        rows = max(1, batch_tokens // len(prompts[by_length[-1][0]]))
        most = max(rows, MOST_QUESTIONS)
        pieces = [group[i : i + most] for group in by_length for i in range(0, len(group), most)]
        n_batches = min(len(pieces), -(-sum(map(len, pieces)) // rows))
        cuts = np.array_split(np.arange(len(pieces)), n_batches)
        blocks.append([[row for place in batch.tolist() for row in pieces[place]] for batch in cuts])
    return blocks
