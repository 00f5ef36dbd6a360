"""What a policy costs, per sample: always paired with the full cache on the same sample."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Losses:
    """Per-sample figures of one policy, arrays ``[sample]`` of float64 in the order of the samples asked for.

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

    @staticmethod
    def join(parts: list[Losses], order: np.ndarray) -> Losses:
        """Concatenate ``parts`` and put sample ``order[i]`` at place i."""
        return Losses(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
                for field in fields(Losses)
            }
        )


def token_losses(
    logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor, full_log_probs: torch.Tensor
) -> dict[str, np.ndarray]:
    """Mean figures over the valid answer tokens of each row.

    Args:
        logits: ``[batch, token, vocab]``, any float dtype; row t predicts ``targets[:, t]``.
        targets: ``[batch, token]`` int64; valid: ``[batch, token]`` bool.
        full_log_probs: ``[batch, token, vocab]`` float32, of the full cache.
    """
    log_probs = logits.float().log_softmax(-1)  # [batch, token, vocab]
    count = valid.sum(-1).double()  # [batch]

    def mean(per_token: torch.Tensor) -> np.ndarray:
        return (per_token.double().masked_fill(~valid, 0).sum(-1) / count).cpu().numpy()

    top = log_probs.argmax(-1)  # [batch, token]
    kl = F.kl_div(log_probs, full_log_probs, reduction="none", log_target=True).sum(-1)  # [batch, token]
    return {
        "nll": mean(-log_probs.gather(-1, targets[..., None])[..., 0]),
        "kl": mean(kl),
        "accuracy": mean((top == targets).float()),
        "changed": mean((top != full_log_probs.argmax(-1)).float()),
    }
