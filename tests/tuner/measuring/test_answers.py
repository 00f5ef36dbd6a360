"""Reading answers over kept tokens: what each answer token may see, and a model that is as it was afterwards."""

from __future__ import annotations

import pytest
import torch

from tests.tuner.models import tiny
from tuner.measuring.answers import NAME, KeptLayer, answering

BATCH, KV_HEADS, WIDTH, DIM, NEW, GROUP = 2, 2, 6, 4, 3, 2


def kept(counts: list[list[int]]) -> torch.Tensor:
    """Bool `[batch, kv_head, key]`: every head keeps another number of tokens, at random places."""
    keep = torch.zeros(BATCH, KV_HEADS, WIDTH, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for row in range(BATCH):
        for head in range(KV_HEADS):
            keep[row, head, torch.randperm(WIDTH, generator=generator)[: counts[row][head]]] = True
    return keep


def layer(keep: torch.Tensor) -> KeptLayer:
    keys = torch.arange(BATCH * KV_HEADS * WIDTH * DIM, dtype=torch.float).view(BATCH, KV_HEADS, WIDTH, DIM)
    return KeptLayer.gather(keys, -keys, keep, NEW, torch.arange(BATCH))


@pytest.mark.parametrize("counts", [[[4, 4], [4, 4]], [[2, 5], [3, 1]]], ids=["alike", "ragged"])
@pytest.mark.parametrize("sliding_window", [None, 3])
def test_an_answer_token_sees_what_is_kept_in_sight_and_what_came_before_it(
    counts: list[list[int]], sliding_window: int | None
) -> None:
    keep = kept(counts)
    ours = layer(keep)
    ours.update(torch.ones(BATCH, KV_HEADS, NEW, DIM), torch.ones(BATCH, KV_HEADS, NEW, DIM))
    bias = ours.bias(GROUP, sliding_window, torch.float32).expand(BATCH, KV_HEADS, -1, -1)
    n_kept = ours.slots.shape[-1]
    for row in range(BATCH):
        for head in range(KV_HEADS):
            for token in range(NEW):
                position = WIDTH + token
                first = 0 if sliding_window is None else position - sliding_window + 1
                slots = ours.slots[row, head].tolist()
                for query in (token, NEW + token):  # the query heads of a group, one after the other
                    seen = (bias[row, head, query] == 0).tolist()
                    assert seen[:n_kept] == [slot >= max(first, 0) for slot in slots]
                    assert seen[n_kept:] == [first <= WIDTH + other <= position for other in range(NEW)]


def test_kept_keys_and_values_are_those_of_their_slots_and_new_ones_come_behind() -> None:
    keep = kept([[2, 5], [3, 1]])
    ours = layer(keep)
    new = torch.full((BATCH, KV_HEADS, NEW, DIM), 7.0)
    keys, values = ours.update(new, -new)
    stored = torch.arange(BATCH * KV_HEADS * WIDTH * DIM, dtype=torch.float).view(BATCH, KV_HEADS, WIDTH, DIM)
    for row in range(BATCH):
        for head in range(KV_HEADS):
            n = int(keep[row, head].sum())
            slots = ours.slots[row, head]
            assert slots[slots >= 0].tolist() == keep[row, head].nonzero()[:, 0].tolist()
            assert (keys[row, head, : slots.shape[0]][slots >= 0] == stored[row, head, keep[row, head]]).all()
            assert (slots >= 0).sum() == n
    assert (keys[:, :, -NEW:] == 7).all()
    assert (values == -keys).all()
    assert ours.get_seq_length() == WIDTH + NEW, "positions go on behind the whole prompt"


@pytest.mark.parametrize("sliding_window", [None, 4])
def test_token_by_token_and_joined_with_others_it_is_the_same(sliding_window: int | None) -> None:
    keep, generator = kept([[2, 5], [3, 1]]), torch.Generator().manual_seed(1)
    new = torch.rand(BATCH, KV_HEADS, NEW, DIM, generator=generator)
    whole = layer(keep)
    whole.update(new, -new)
    stored = torch.arange(BATCH * KV_HEADS * WIDTH * DIM, dtype=torch.float).view(BATCH, KV_HEADS, WIDTH, DIM)
    shorter = [KeptLayer.gather(stored, -stored, keep[row : row + 1], 0, torch.tensor([row])) for row in (0, 1)]
    longer = torch.ones(1, KV_HEADS, WIDTH + 3, dtype=torch.bool)
    other = KeptLayer.gather(
        torch.ones(1, KV_HEADS, WIDTH + 3, DIM), torch.ones(1, KV_HEADS, WIDTH + 3, DIM), longer, 0, torch.tensor([0])
    )
    joined = KeptLayer.join([other, *shorter], NEW)
    for token in range(NEW):
        step = torch.cat([new[:1], new])[:, :, token : token + 1]
        keys, values = joined.update(step, -step)
        bias = joined.bias(GROUP, sliding_window, torch.float32)
        for row in range(BATCH):
            for head in range(KV_HEADS):
                for group in range(GROUP):
                    every = whole.bias(GROUP, sliding_window, torch.float32).expand(BATCH, KV_HEADS, -1, -1)
                    seen = every[row, head, group * NEW + token] == 0
                    ours = bias.expand(-1, KV_HEADS, -1, -1)[row + 1, head, group] == 0
                    assert (keys[row + 1, head, ours] == whole.keys[row, head, seen]).all()
                    assert (values[row + 1, head, ours] == whole.values[row, head, seen]).all()
                    assert ours.sum() == seen.sum()
    assert joined.get_seq_length() == WIDTH + 3 + NEW


def test_the_model_is_as_it_was_even_after_an_error() -> None:
    model = tiny("llama")
    before = model.config._attn_implementation
    with answering(model):
        assert model.config._attn_implementation == NAME
    with pytest.raises(ZeroDivisionError), answering(model):
        _ = 1 / 0
    assert model.config._attn_implementation == before != NAME
