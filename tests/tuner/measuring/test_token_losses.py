"""What tokens are worth in nats: gradients against the stock model, the formula against really losing a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core import models
from tests.tuner.models import holder_of, samples, tiny
from tuner.inputs.encoding import Encoded
from tuner.measuring.answers import answering
from tuner.measuring.batch import PromptBatch
from tuner.measuring.engine import Engine
from tuner.measuring.reading import Reader
from tuner.measuring.texts import Ends
from tuner.measuring.token_losses import _Attention, _backwards, _loss_without, gives_gradients, token_losses


def read(model: Any, data: Sequence[Encoded]) -> tuple[Reader, PromptBatch]:
    """All of `data` as one batch, with what the model itself writes."""
    holder = holder_of(Engine(model, data, block_size=len(data), ends=Ends(5, frozenset())))
    ((_, [batch]),) = holder.blocks()
    return holder.reader, batch


def losses_of(model: Any, data: Sequence[Encoded], row: int) -> list[Tensor]:
    reader, batch = read(model, data)
    with answering(model):
        return token_losses(reader, batch, batch.samples.index(row), torch.Generator().manual_seed(row))


def test_the_formula_is_the_square_of_what_losing_a_key_changes() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    gradient = torch.randn(2, 3, 4, 8)
    bias = torch.zeros(2, 1, 4, 7)
    bias[1, :, :, 5:] = float("-inf")

    def output(hidden: Tensor) -> Tensor:
        return (query @ key.transpose(-1, -2) * 0.3 + bias + hidden).softmax(-1) @ value

    whole = output(torch.zeros(7))
    found = _loss_without(_Attention(query, key, value, 0.3, bias, whole), gradient)
    for lost in range(7):
        hidden = torch.zeros(7)
        hidden[lost] = float("-inf")
        along = (gradient * (output(hidden) - whole)).sum(-1)
        torch.testing.assert_close(found[..., lost], along**2 / 2, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("n_question", [0, 3], ids=["cut: prompt", "cut: context"])
def test_gradients_are_those_of_the_stock_model(n_question: int) -> None:
    model, text = tiny("llama"), torch.arange(7, 7 + 6 + n_question)
    reader, batch = read(model, samples(3))
    for row in range(3):
        with answering(model):
            seen, gradients = _backwards(reader, batch, row, text, n_question, torch.Generator().manual_seed(1))
        outputs: list[Tensor] = []

        def note(_module: Any, given: tuple[Tensor], to: list[Tensor] = outputs) -> None:
            to.append(given[0])

        hooks = [layer.self_attn.o_proj.register_forward_pre_hook(note) for layer in model.model.layers]
        ids = torch.cat([batch.prompts[row][batch.mask[row]], text[:-1]])
        with torch.enable_grad():
            logits = model(ids[None]).logits[0, -len(text) + 1 :][max(n_question - 1, 0) :]
            likelihoods = logits.log_softmax(-1)
            drawn = torch.multinomial(likelihoods.detach().exp(), 1, generator=torch.Generator().manual_seed(1))
            stock = torch.autograd.grad(likelihoods.gather(-1, drawn).sum(), outputs)
        for hook in hooks:
            hook.remove()
        for attention, gradient, whole, at_output in zip(seen, gradients, stock, outputs, strict=True):
            for ours, theirs in ((gradient, whole), (attention.output, at_output)):
                of_text = theirs[0, -len(text) + 1 :].unflatten(-1, (4, -1)).transpose(0, 1)  # [head, query, dim]
                torch.testing.assert_close(ours[0], of_text.reshape_as(ours[0]).detach(), atol=1e-5, rtol=1e-3)


def test_to_second_order_they_are_the_kl_of_losing_a_token() -> None:
    model = tiny("opt")  # every query head has keys of its own
    [sample] = samples(1, longest=12)
    reader, batch = read(model, [replace(sample, answer_ids=(5, 9))])
    batch = replace(batch, texts=batch.texts[:1])
    draws = torch.Generator().manual_seed(0)
    with answering(model):
        found = [token_losses(reader, batch, 0, draws) for _ in range(600)]
        whole = reader.follow(batch, reader.all_of(batch), batch.texts[0].ids, batch.texts[0].valid)[0, 1]
        for layer in range(3):
            for head, token in ((0, 2), (3, 7)):
                keep = reader.all_of(batch)
                keep[layer] = keep[layer].clone()
                keep[layer][0, head, token] = False
                left = reader.follow(batch, keep, batch.texts[0].ids, batch.texts[0].valid)[0, 1]
                kl = torch.nn.functional.kl_div(
                    left.log_softmax(-1), whole.log_softmax(-1), log_target=True, reduction="sum"
                )
                expected = float(torch.stack([each[layer][head, token] for each in found]).mean())
                assert expected == pytest.approx(float(kl) / 2, rel=0.25), (layer, head, token)  # two tokens of text


@pytest.mark.parametrize("question", [(), (5, 9, 14)], ids=["cut: prompt", "cut: context"])
def test_padding_and_batches_change_nothing(question: tuple[int, ...]) -> None:
    model = tiny("llama")
    data = [replace(sample, question_ids=question[: 1 + index % 3]) for index, sample in enumerate(samples(4))]
    for row, sample in enumerate(data):
        alone_reader, alone = read(model, [sample])
        with answering(model):
            single = token_losses(alone_reader, alone, 0, torch.Generator().manual_seed(row))
        for together, own in zip(losses_of(model, data, row), single, strict=True):
            assert together.shape[-1] == len(sample.prompt_ids)
            torch.testing.assert_close(together, own, atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_gives_gradients(family: str) -> None:
    model = models.build(family)
    assert gives_gradients(model)
    data = [replace(sample, answer_ids=(5, 9, 14)) for sample in samples(2)]
    found = losses_of(model, data, 0)
    for losses in found:
        assert losses.shape[-1] == len(data[0].prompt_ids)
        assert bool(losses.isfinite().all())
        assert float(losses.max()) > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_a_text_of_one_token_is_predicted_before_anything_is_lost() -> None:
    [sample] = samples(1)
    model = tiny("llama")
    reader, batch = read(model, [replace(sample, answer_ids=(5,))])
    batch = replace(batch, texts=batch.texts[:1])
    with answering(model):
        assert not any(losses.any() for losses in token_losses(reader, batch, 0, torch.Generator()))


def test_shared_out_offloaded_and_quantised_weights_may_give_none() -> None:
    model = tiny("llama")
    model.register_parameter("packed", torch.nn.Parameter(torch.zeros(1, dtype=torch.int8), requires_grad=False))
    assert not gives_gradients(model)
    offloaded = tiny("llama")
    offloaded.lm_head.weight = torch.nn.Parameter(offloaded.lm_head.weight.to("meta"))
    assert not gives_gradients(offloaded)
