"""What a policy costs, per sample: always paired with the full cache on the same sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from a2sf_core.policy import Policy
from tuner.measuring.head import Head


@dataclass(frozen=True)
class Losses:
    """Per-sample figures of one policy, arrays `[sample]` of float64 in the order of the samples asked for.

    Two texts follow a prompt, teacher-forced: the reference answer, which is what the reader wants, and what the full
    cache itself writes, which is what serving does. Where the latter is not known, it is taken to be the former.

    nll: mean negative log-likelihood of the reference answer's tokens, nats per token.
    kl: what a search goes by, the mean of the two that follow.
    reference_kl, own_kl: mean KL divergence KL(full cache || policy) of the next-token distributions along the
        reference and along the full cache's own text, nats per token.
    accuracy: share of the reference's tokens that are the top choice.
    changed, own_changed: share of the tokens of either text whose top choice differs from the full cache's.
    cache_fraction: share of the prompt's keys and values that the policy keeps, mean over layers and KV heads.
    """

    nll: np.ndarray
    kl: np.ndarray
    accuracy: np.ndarray
    changed: np.ndarray
    cache_fraction: np.ndarray
    reference_kl: np.ndarray
    own_kl: np.ndarray
    own_changed: np.ndarray

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


def share_of_all(cache_fraction: Sequence[float] | np.ndarray, n_tokens: Sequence[int] | np.ndarray) -> float:
    """Share that is kept of the keys and values of all prompts together, of `n_tokens` each."""
    return float(np.average(cache_fraction, weights=n_tokens))


def share_kept(policy: Policy, n_tokens: Sequence[int] | np.ndarray) -> float:
    """The same for what `policy` keeps of such prompts, known before they are read."""
    return share_of_all([policy.cache_fraction(int(n)) for n in n_tokens], n_tokens)


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
    """What the full cache says of a text's tokens, padding left out.

    top: int64 `[answer_token]`, the likeliest token. log_probs: float32 `[answer_token, vocab]`, of no tokens where
    they are made again when needed. first: `[batch, vocab]`, logits that predict the first token. states:
    `[batch, token - 1, width]`, of which the model's head makes the others; of no width where there are none, or they
    are not the head's alone.
    """

    top: torch.Tensor
    log_probs: torch.Tensor
    first: torch.Tensor
    states: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor, valid: torch.Tensor, states: torch.Tensor) -> FullAnswers:
        """From logits `[batch, token, vocab]` of any float dtype, bool `[batch, token]`, and `states`."""
        log_probs = logits[valid].float().log_softmax(-1)
        return FullAnswers(log_probs.argmax(-1), log_probs, logits[:, 0].clone(), states)

    def lighter(self) -> FullAnswers:
        """Without what can be made again."""
        if not self.states.shape[-1]:
            return self
        return replace(self, log_probs=self.log_probs.new_zeros(0, self.log_probs.shape[-1]))

    def all_log_probs(self, valid: torch.Tensor, head: Head) -> torch.Tensor:
        """`log_probs`, made again where they are not held: bit for bit the same."""
        if len(self.log_probs):
            return self.log_probs
        logits = torch.cat([self.first[:, None], head.logits(self.states)], 1)  # [batch, token, vocab]
        return logits[valid].float().log_softmax(-1)

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order of the fields."""
        return [self.top, self.log_probs, self.first, self.states]


@dataclass(frozen=True)
class JudgedText:
    """A text for each prompt of a batch, and what the full cache says of it.

    ids, valid: int64 and bool `[batch, token]`, padded on the right. full: of the valid tokens, row by row.
    """

    ids: torch.Tensor
    valid: torch.Tensor
    full: FullAnswers

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order of the fields."""
        return [self.ids, self.valid, *self.full.tensors()]

    def to(self, device: torch.device | str) -> JudgedText:
        """The same with its tensors on `device`."""
        ids, valid, *full = (tensor.to(device) for tensor in self.tensors())
        return JudgedText(ids, valid, FullAnswers(*full))


@dataclass(frozen=True)
class TokenLosses:
    """Means over a text's tokens, `[batch]` each, named as in `Losses`."""

    nll: np.ndarray
    kl: np.ndarray
    accuracy: np.ndarray
    changed: np.ndarray

    @classmethod
    def of(cls, logits: torch.Tensor, text: JudgedText, head: Head) -> TokenLosses:
        """From logits `[batch, token, vocab]` of any float dtype that predict the tokens of `text`."""
        full = text.full.all_log_probs(text.valid, head)  # [answer_token, vocab]
        log_probs = logits[text.valid].float().log_softmax(-1)  # [answer_token, vocab]
        top = log_probs.argmax(-1)  # [answer_token]
        targets = text.ids[text.valid]  # [answer_token]
        nll = -log_probs.gather(-1, targets[:, None])[:, 0]  # [answer_token]
        difference = torch.sub(full, log_probs, out=log_probs)  # in place: the vocabulary may be large
        kl = torch.linalg.vecdot(full.exp(), difference)  # [answer_token]

        row = text.valid.nonzero()[:, 0].cpu().numpy()  # [answer_token]
        count = np.bincount(row)  # [batch]
        columns = (nll, kl, top == targets, top != text.full.top)
        table = torch.stack([column.double() for column in columns]).cpu().numpy()  # one copy from the device
        return cls(*(np.bincount(row, column) / count for column in table))


def losses_of(reference: TokenLosses, own: TokenLosses | None, cache_fraction: np.ndarray) -> Losses:
    """Both texts' figures as one; without an own text the reference's count for both."""
    own = own or reference
    return Losses(
        nll=reference.nll,
        kl=(reference.kl + own.kl) / 2,
        accuracy=reference.accuracy,
        changed=reference.changed,
        cache_fraction=cache_fraction,
        reference_kl=reference.kl,
        own_kl=own.kl,
        own_changed=own.changed,
    )
