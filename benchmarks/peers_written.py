"""What the model really writes over each kept set, greedily, held against the reference: F1 and ROUGE-L."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from benchmarks.lab import in_brackets
from benchmarks.peers_evaluator import FULL, Keep, OnePrompt
from benchmarks.peers_report import Triple, mean_interval
from tuner.inputs.encoding import Encoded
from tuner.inputs.metrics import METRICS
from tuner.inputs.own_metric import text_score
from tuner.measuring.answers import answering
from tuner.measuring.texts import Begun, Ends, go_on

WRITTEN = ("f1", "rouge_l")
"""Metrics of text; both are between 0 and 1."""


@dataclass(frozen=True)
class Written:
    """One method over all prompts, in points: a hundredth of a metric."""

    method: str
    same: float
    points: dict[str, Triple]
    lost: dict[str, Triple]

    def to_dict(self) -> dict[str, object]:
        """For the report on disk."""
        return {"method": self.method, "same": self.same, "points": self.points, "minus_full": self.lost}


def write(prompt: OnePrompt, keeps: Mapping[str, Keep], ends: Ends) -> dict[str, tuple[int, ...]]:
    """Token ids of one text per kept set, all written together."""
    with answering(prompt.model):
        begun = [
            replace(Begun.of(prompt.reader, prompt.batch, keep, {0}), samples=[place])
            for place, keep in enumerate(keeps.values())
        ]
        texts = go_on(prompt.reader, begun, ends)
    return {name: texts[place] for place, name in enumerate(keeps)}


def compared(texts: Mapping[str, Sequence[str]], asked: Sequence[Encoded]) -> list[Written]:
    """Every method in `texts` (one text per prompt) beside the full cache's, with intervals over the contexts."""
    contexts = np.array([each.context_key for each in asked])
    scores = {
        method: {
            name: 100 * np.array([text_score(METRICS[name], text, each) for text, each in zip(own, asked, strict=True)])
            for name in WRITTEN
        }
        for method, own in texts.items()
    }
    return [
        Written(
            method,
            float(np.mean([text == full for text, full in zip(texts[method], texts[FULL], strict=True)])),
            {name: mean_interval(own[name], contexts) for name in WRITTEN},
            {name: mean_interval(own[name] - scores[FULL][name], contexts) for name in WRITTEN},
        )
        for method, own in scores.items()
    ]


def written_table(found: Sequence[Written], share: float, n_prompts: int) -> Table:
    """Points of both metrics, what is lost of them against the full cache, and how often the text is the same."""
    table = Table("method", title=f"Written at {share:.0%} of the cache, {n_prompts} prompts; points, [95 %]")
    for name in ("F1", "over full", "ROUGE-L", "over full", "same text"):
        table.add_column(name)
    for each in found:
        cells = [
            in_brackets(found, sign, digits=1)
            for name in WRITTEN
            for found, sign in ((each.points[name], ""), (each.lost[name], "+"))
        ]
        table.add_row(each.method, *cells, f"{each.same:.0%}")
    return table
