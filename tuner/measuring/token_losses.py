"""What every token of a prompt is worth to every KV head, in nats: one backward pass over the texts that follow it.

To second order, the KL between the model's predictions before and after a small change is half the expected square of
the change along the gradient of log p(y), with y drawn from the model itself: its Fisher information, by which Fisher
pruning (arXiv 1801.05787) takes channels from a network, and optimal brain damage (LeCun et al., 1990) took weights. A
head that loses a key of attention p moves its output o by p / (1 - p) (o - v). So the figures of heads in all layers
are in one unit, which those that look at attention alone are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from a2sf_core.placement import n_processes
from tuner.measuring.answers import AnswerCache
from tuner.measuring.batch import PromptBatch
from tuner.measuring.reading import Reader

_LEAST_LEFT = 1e-3
"""Of a head's attention, what is taken to be left when a key that has all of it is lost."""


class _Attention(NamedTuple):
    """What one attention took and gave: see `KeptLayer.watch`."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    bias: Tensor
    output: Tensor


def gives_gradients(model: Any) -> bool:
    """False for models that several processes share, and for offloaded or quantised weights: what holds these need not
    be able to go backwards."""
    plain = all(
        type(weight.data) is Tensor and weight.is_floating_point() and weight.device.type != "meta"
        for weight in model.parameters()
    )
    return plain and n_processes(model) == 1


def paid(query: Tensor, key: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Attention in float32, `[batch, kv_head, query, key]`; the arguments as in `KeptLayer.watch`."""
    return (query.float() @ key.float().transpose(-1, -2) * scale + bias).softmax(-1)


def odds(attention: Tensor) -> Tensor:
    """p / (1 - p), any shape: how far an output o moves along o - v without a key of value v."""
    return attention / (1 - attention).clamp(min=_LEAST_LEFT)


def draws(seed: int, sample: int) -> torch.Generator:
    """What a sample's tokens are drawn with: the same whoever holds it, and whatever its losses are wanted for."""
    return torch.Generator().manual_seed(seed + sample)


@torch.no_grad()
def token_losses(reader: Reader, batch: PromptBatch, row: int, generator: torch.Generator) -> list[Tensor]:
    """What the model's predictions would lose with each token of row `row`: nats per token of text, mean over texts.

    To be called inside `answering(model)`, of a model that `gives_gradients`.

    Args:
        generator: on the CPU; draws from the model's predictions.

    Returns:
        float32 `[kv_head, token]` per layer, for the tokens of the prompt alone.
    """
    question = batch.questions[row][batch.question_valid[row]]  # [token]
    n = int(batch.n_tokens[row])
    found = [torch.zeros(layer.keys.shape[1], n, device=layer.keys.device) for layer in batch.layers]
    for text in batch.texts:
        ids = torch.cat([question, text.ids[row][text.valid[row]]])  # [token]
        if len(ids) == 1:
            continue  # its only token is predicted by the prompt, before anything is lost
        for losses, attention, gradient in zip(
            found, *_backwards(reader, batch, row, ids, len(question), generator), strict=True
        ):
            moved = _loss_without(attention, gradient)[0, ..., :n]  # [kv_head, query, token]
            losses += moved.sum(1) / (len(ids) - len(question)) / len(batch.texts)
    return found


def _loss_without(attention: _Attention, gradient: Tensor) -> Tensor:
    """Half the square of what losing each key changes along `gradient` `[batch, kv_head, query, dim]`.

    float32 `[batch, kv_head, query, key]`.
    """
    gradient = gradient.float()
    at_output = (gradient * attention.output.float()).sum(-1, keepdim=True)  # [batch, kv_head, query, 1]
    along = at_output - gradient @ attention.value.float().transpose(-1, -2)
    return (odds(paid(attention.query, attention.key, attention.scale, attention.bias)) * along).square() / 2


def _backwards(
    reader: Reader, batch: PromptBatch, row: int, ids: Tensor, n_question: int, generator: torch.Generator
) -> tuple[list[_Attention], list[Tensor]]:
    """Per layer its attention to the whole prompt as `ids` `[token]` are read, and the gradient of its output.

    The gradient is that of the likelihood of tokens drawn from the predictions for all but the first `n_question`.
    """
    seen: list[_Attention] = []
    mask, n_read = batch.mask[row : row + 1], batch.n_tokens[row : row + 1]
    keep = [mask[:, None].expand(1, layer.keys.shape[1], -1).to(layer.keys.device) for layer in batch.layers]
    with torch.enable_grad(), _from_embeddings_on(reader.model):
        stored = [(layer.keys, layer.values) for layer in batch.layers]
        cache = AnswerCache.gather(stored, keep, len(ids) - 1, batch.held[row : row + 1])
        for layer in cache.layers:
            layer.watch = lambda *attention: seen.append(_Attention(*attention))
        logits = reader.read_on(mask, n_read, cache, ids[None, :-1], torch.ones_like(ids[None, :-1], dtype=torch.bool))
        likelihoods = logits[0, max(n_question - 1, 0) :].float().log_softmax(-1)  # [token, vocab]
        drawn = torch.multinomial(likelihoods.detach().exp().cpu(), 1, generator=generator)  # [token, 1]
        likelihood = likelihoods.gather(-1, drawn.to(likelihoods.device)).sum()
        gradients = torch.autograd.grad(likelihood, [attention.output for attention in seen])
    return seen, list(gradients)


@contextmanager
def _from_embeddings_on(model: Any) -> Iterator[None]:
    """Inside, gradients flow from the embeddings of tokens on, whether or not weights have any."""
    hook = model.get_input_embeddings().register_forward_hook(lambda _module, _given, found: found.requires_grad_())
    try:
        yield
    finally:
        hook.remove()
