"""The task's metric, per sample: counted by the engine, or computed on text that the model really writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria

from a2sf_core.policy import Policy
from a2sf_core.switch import attach
from tuner.inputs.encoding import Encoded
from tuner.inputs.greedy import greedily
from tuner.inputs.metrics import METRICS, Metric
from tuner.inputs.own_metric import find_metric, text_score
from tuner.inputs.power import resolution
from tuner.measuring.choosing import right_choices
from tuner.measuring.engine import Engine, by_gathering
from tuner.measuring.writing import Ends, Writer, end_tokens


class Grader:
    """Callable `(engine, policy) -> [sample]` of float64, 0 to 1, higher is better; texts are written once each.

    Args:
        metric: a name in `tuner.inputs.metrics.METRICS`, or `module:function`.
        model, tokenizer: that write the texts.
        max_new_tokens: of a text.
        stop: a text ends before the first of these.
    """

    def __init__(self, metric: str, model: Any, tokenizer: Any, max_new_tokens: int, stop: Sequence[str] = ()) -> None:
        self.metric = find_metric(metric)
        self._model, self._tokenizer = model, tokenizer
        self._max_new_tokens, self._stop = max_new_tokens, tuple(stop)
        self._writers: dict[Engine, Writer] = {}
        self._texts: dict[tuple[Engine, Policy], list[str]] = {}
        self._chosen: dict[tuple[Engine, Policy], np.ndarray] = {}

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
        if not by_gathering(policy):
            return generate(self._model, self._tokenizer, engine.samples, policy, self._max_new_tokens, self._stop)
        written = self._writer(engine).texts(policy, range(len(engine.samples)))
        return [self._as_text(written[row]) for row in range(len(engine.samples))]

    def _writer(self, engine: Engine) -> Writer:
        if engine not in self._writers:
            stopped = self._has_stop if self._stop else None
            self._writers[engine] = Writer(
                engine, Ends(self._max_new_tokens, end_tokens(self._model, self._tokenizer), stopped)
            )
        return self._writers[engine]

    def _has_stop(self, tokens: Sequence[int]) -> bool:
        # With special tokens, so that one of them may be a stop.
        text = self._tokenizer.decode(tokens)
        return any(each in text for each in self._stop)

    def _as_text(self, tokens: Sequence[int]) -> str:
        return _cut(self._tokenizer.decode(tokens, skip_special_tokens=True), self._stop).strip()


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
    """Greedy answers of the attached model up to the first of `stop`, in left-padded batches of similar length."""
    end = tokenizer.eos_token_id
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end or 0)
    texts = [""] * len(samples)
    by_length = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt_ids))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        width = max(len(samples[i].prompt_ids) for i in rows)
        ids = torch.full((len(rows), width), filler, device=model.device)  # [batch, token]
        mask = torch.zeros_like(ids)
        for row, index in enumerate(rows):
            prompt = torch.tensor(samples[index].prompt_ids, device=model.device)
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        with greedily(model, tokenizer, max_new_tokens) as settings, attach(policy, model):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                stopping_criteria=[Stopped(tokenizer, stop, width)] if stop else None,
            )
        for row, index in enumerate(rows):
            texts[index] = _cut(tokenizer.decode(output[row, width:], skip_special_tokens=True), stop).strip()
    return texts


class Stopped(StoppingCriteria):
    """True for every row whose new tokens, from `start` on, hold one of `stop`.

    transformers' own `stop_strings` looks at the prompt too: after one that ends in a line break, the first line break
    written would make a whole blank line.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        # With special tokens, so that one of them may be a stop; then nothing but padding follows in its row.
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :])
        found = [any(each in text for each in self._stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def _cut(text: str, stop: Sequence[str]) -> str:
    """`text` before the first of `stop`."""
    return text[: min((text.find(each) for each in stop if each in text), default=len(text))]
