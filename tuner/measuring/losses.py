"""What a policy costs, per sample: always paired with the full cache on the same sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch


@dataclass(frozen=True)
class Losses:
    """Per-sample figures of one policy, arrays `[sample]` of float64 in the order of the samples asked for.

    nll: mean negative log-likelihood of the reference answer's tokens, nats per token, teacher-forced.
    kl: mean KL divergence KL(full cache || policy) of the next-token distributions, nats per token.
    accuracy: share of answer tokens whose top choice is the reference token.
    changed: share of answer tokens whose top choice differs from the full cache's.
    cache_fraction: share of the prompt's keys and values that the policy keeps, mean over layers and KV heads.
    """

    nll: np.ndarray
    kl: np.ndarray
    accuracy: np.ndarray
    changed: np.ndarray
    cache_fraction: np.ndarray

    def finite(self) -> bool:
        """False where the model gave NaN or infinity for any sample."""
        return all(bool(np.isfinite(getattr(self, field.name)).all()) for field in fields(self))

    def at(self, rows: np.ndarray) -> Losses:
        """The same for the samples `rows` alone, in that order."""
        return Losses(**{field.name: getattr(self, field.name)[rows] for field in fields(Losses)})

    @staticmethod
    def join(parts: Sequence[Losses], order: np.ndarray) -> Losses:
        """Concatenate `parts` and put sample `order[i]` at place i."""
        return Losses(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
                for field in fields(Losses)
            }
        )


@dataclass(frozen=True)
class Seen:
    """What is known of a policy: `losses` on the samples `rows` (int `[sample]`, ascending), in that order."""

    rows: np.ndarray
    losses: Losses

    @property
    def n(self) -> int:
        """On how many samples it was measured."""
        return len(self.rows)


@dataclass(frozen=True)
class FullAnswers:
    """What the full cache says of the answers' tokens, padding left out.

    log_probs: `[answer_token, vocab]` float32. top: `[answer_token]`, the likeliest token.
    """

    log_probs: torch.Tensor
    top: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> FullAnswers:
        """From logits `[answer_token, vocab]` of any float dtype."""
        log_probs = logits.float().log_softmax(-1)
        return FullAnswers(log_probs, log_probs.argmax(-1))

    def tensors(self) -> list[torch.Tensor]:
        """Both of them, in the order of the fields."""
        return [self.log_probs, self.top]


def token_losses(
    logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor, full: FullAnswers, cache_fraction: np.ndarray
) -> Losses:
    """Mean figures over the valid answer tokens of each row.

    Args:
        logits: `[answer_token, vocab]`, any float dtype, for the valid tokens only, row by row.
        targets: `[batch, token]` int64; valid: `[batch, token]` bool.
        cache_fraction: `[batch]`, handed on.
    """
    log_probs = logits.float().log_softmax(-1)  # [answer_token, vocab]
    top = log_probs.argmax(-1)  # [answer_token]
    flat_targets = targets[valid]  # [answer_token]
    nll = -log_probs.gather(-1, flat_targets[:, None])[:, 0]  # [answer_token]
    difference = torch.sub(full.log_probs, log_probs, out=log_probs)  # in place: the vocabulary may be large
    kl = torch.linalg.vecdot(full.log_probs.exp(), difference)  # [answer_token]

    row = valid.nonzero()[:, 0].cpu().numpy()  # [answer_token]
    count = np.bincount(row)  # [batch]
    columns = (nll, kl, top == flat_targets, top != full.top)
    table = torch.stack([column.double() for column in columns]).cpu().numpy()  # one copy from the device
    means = [np.bincount(row, column) / count for column in table]  # [batch] each
    return Losses(means[0], means[1], means[2], means[3], cache_fraction)
