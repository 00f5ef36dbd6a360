"""The task's metric, per sample: counted by the engine, or computed on text that the model really writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria

from a2sf_core.context import read_context
from a2sf_core.placement import input_device
from a2sf_core.policy import Policy
from a2sf_core.switch import attach, cache_argument
from tuner.inputs.encoding import Encoded
from tuner.inputs.greedy import end_tokens, greedily
from tuner.inputs.metrics import METRICS, Metric
from tuner.inputs.own_metric import find_metric, text_score
from tuner.inputs.power import resolution
from tuner.inputs.tasks import Task
from tuner.measuring.batch import pad
from tuner.measuring.choosing import right_choices
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends
from tuner.measuring.writing import Writer


class Grader:
    """Callable `(engine, policy) -> [sample]` of float64, 0 to 1, higher is better; texts are written once each.

    Args:
        metric: a name in `tuner.inputs.metrics.METRICS`, or `module:function`.
        model, tokenizer: that write the texts.
        max_new_tokens: of a text.
        stop: a text ends before the first of these.

    Attributes:
        ends: when a text is over.
    """

    def __init__(self, metric: str, model: Any, tokenizer: Any, max_new_tokens: int, stop: Sequence[str] = ()) -> None:
        self.metric = find_metric(metric)
        self._model, self._tokenizer = model, tokenizer
        self._max_new_tokens, self._stop = max_new_tokens, tuple(stop)
        stopped = HasStop(tokenizer, self._stop) if stop else None
        self.ends = Ends(max_new_tokens, frozenset(end_tokens(model, tokenizer)), stopped)
        self._writers: dict[Engine, Writer] = {}
        self._texts: dict[tuple[Engine, Policy], list[str]] = {}
        self._chosen: dict[tuple[Engine, Policy], np.ndarray] = {}

    @classmethod
    def of(cls, task: Task, model: Any, tokenizer: Any) -> Grader:
        """That of a task."""
        return cls(task.metric, model, tokenizer, task.max_new_tokens, task.stop)

    def __call__(self, engine: Engine, policy: Policy) -> np.ndarray:
        if self.metric.of_choices:
            if (engine, policy) not in self._chosen:
                self._chosen[engine, policy] = right_choices(engine, policy)
            return self._chosen[engine, policy]
        if not self.metric.needs_generation:
            return engine.evaluate(policy).accuracy
        return self._compute(engine, policy, self.metric)

    def resolution(self, engine: Engine) -> float:
        """Points that a sample loses at least if it loses anything."""
        return resolution(self.metric, engine.samples)

    def by_text(self, engine: Engine, policy: Policy, metric: str) -> np.ndarray:
        """A metric on written text whatever the task's own is, `[sample]`."""
        return self._compute(engine, policy, METRICS[metric])

    def texts(self, engine: Engine, policy: Policy) -> list[str]:
        """What the model writes under `policy`, greedily, per sample."""
        if (engine, policy) not in self._texts:
            self._texts[engine, policy] = self._write(engine, policy)
        return self._texts[engine, policy]

    def _compute(self, engine: Engine, policy: Policy, metric: Metric) -> np.ndarray:
        pairs = zip(self.texts(engine, policy), engine.samples, strict=True)
        return np.array([text_score(metric, text, sample) for text, sample in pairs])

    def _write(self, engine: Engine, policy: Policy) -> list[str]:
        if not engine.gathers(policy):
            return generate(self._model, self._tokenizer, engine.samples, policy, self._max_new_tokens, self._stop)
        written = self._writer(engine).texts(policy, range(len(engine.samples)))
        return [_text(self._tokenizer, written[row], self._stop) for row in range(len(engine.samples))]

    def _writer(self, engine: Engine) -> Writer:
        if engine not in self._writers:
            self._writers[engine] = Writer(engine, self.ends)
        return self._writers[engine]


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    samples: list[Encoded],
    policy: Policy,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 16,
) -> list[str]:
    """Greedy answers of the attached model up to the first of `stop`, in left-padded batches of similar length.

    Where questions are apart from their contexts, these are read and cut first.
    """
    texts, device = [""] * len(samples), input_device(model)
    with greedily(model, tokenizer, max_new_tokens) as settings, attach(policy, model):
        for rows in _batches(samples, batch_size):
            prompts, real = pad([samples[i].prompt_ids for i in rows], device, left=True)  # [batch, token]
            questions, asked = pad([samples[i].question_ids for i in rows], device, left=True)
            after = {cache_argument(model): read_context(model, prompts, real)} if asked.numel() else {}
            prompts, real = torch.cat([prompts, questions], 1), torch.cat([real, asked], 1)
            width = prompts.shape[1]
            output = model.generate(
                input_ids=prompts.masked_fill(~real, settings.pad_token_id),
                attention_mask=real.long(),
                generation_config=settings,
                stopping_criteria=[Stopped(tokenizer, stop, width)] if stop else None,
                **after,
            )
            for row, index in enumerate(rows):
                texts[index] = _text(tokenizer, output[row, width:], stop)
    return texts


def _batches(samples: Sequence[Encoded], size: int) -> list[list[int]]:
    """Of samples whose questions are equally long, so that nothing stands between a context and its question."""
    lengths = [(len(sample.question_ids), len(sample.prompt_ids)) for sample in samples]
    by_length = sorted(range(len(samples)), key=lengths.__getitem__)
    alike = [list(rows) for _, rows in groupby(by_length, key=lambda i: lengths[i][0])]
    return [rows[start : start + size] for rows in alike for start in range(0, len(rows), size)]


class Stopped(StoppingCriteria):
    """True for every row whose new tokens, from `start` on, hold one of `stop`.

    transformers' own `stop_strings` looks at the prompt too: after one that ends in a line break, the first line break
    written would make a whole blank line.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self._has_stop, self._start = HasStop(tokenizer, tuple(stop)), start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        # After a stop nothing but padding follows in its row.
        found = [self._has_stop(row[self._start :]) for row in input_ids]
        return torch.tensor(found, device=input_ids.device)


@dataclass(frozen=True)
class HasStop:
    """True for tokens whose text holds one of `stop`."""

    tokenizer: Any
    stop: tuple[str, ...]

    def __call__(self, tokens: Sequence[int] | torch.Tensor) -> bool:
        text = self.tokenizer.decode(tokens)  # with special tokens, so that one of them may be a stop
        return any(each in text for each in self.stop)


def _text(tokenizer: Any, tokens: Sequence[int] | torch.Tensor, stop: Sequence[str]) -> str:
    """What `tokens` say before the first of `stop`."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return text[: min((text.find(each) for each in stop if each in text), default=len(text))].strip()
