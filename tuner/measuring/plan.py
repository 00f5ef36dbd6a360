"""Which samples are read and measured together: blocks, after each of which a policy can be given up, and batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

MOST_QUESTIONS = 16
"""On one prompt, in a batch: each row gathers what it keeps of the prompt, however few prompts a batch may hold."""


ANOTHER_BATCH = 32
"""Tokens of an answer that a CPU reads in the time that a batch more takes, as the weights pass through its caches once
more: with 135 M parameters 32 and 64 do equally well, 16 worse. A GPU is faster with one large batch."""


def plan(
    prompts: Sequence[tuple[int, ...]], batch_tokens: int, block_size: int, seed: int,
    answers: Sequence[int] = (),
) -> list[list[list[int]]]:  # fmt: skip
    """Blocks of samples in random order; inside a block, batches of similar length, so that little is padded.

    Samples with one prompt stay together, so that it is read once. Given the tokens of their `answers`, batches are
    split again where the padding of these costs more than a batch does.
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
        batches = [[pieces[place] for place in batch.tolist()] for batch in cuts]
        parts = [part for batch in batches for part in (_by_answer(batch, answers) if answers else [batch])]
        blocks.append([[row for piece in part for row in piece] for part in parts])
    return blocks


def _by_answer(pieces: Sequence[list[int]], answers: Sequence[int]) -> list[list[list[int]]]:
    """Split so that as few tokens as possible are read, padding included, each part counting as `ANOTHER_BATCH`."""
    by_longest = sorted(((max(answers[row] for row in piece), piece) for piece in pieces), key=lambda each: -each[0])
    longest, ordered = [each for each, _ in by_longest], [piece for _, piece in by_longest]
    n_rows = [0, *accumulate(map(len, ordered))]
    tokens, starts = [0], [0]  # fewest that the first pieces take, and where their last part starts, by how many
    for stop in range(1, len(ordered) + 1):
        ways = [tokens[i] + ANOTHER_BATCH + longest[i] * (n_rows[stop] - n_rows[i]) for i in range(stop)]
        tokens.append(min(ways))
        starts.append(ways.index(tokens[-1]))
    parts, stop = [], len(ordered)
    while stop:
        parts.append(ordered[starts[stop] : stop])
        stop = starts[stop]
    return parts
