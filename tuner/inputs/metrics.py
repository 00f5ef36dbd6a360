"""How good an answer is, from 0 to 1: the metrics that a task may name."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

# Signs that may stand around an answer without changing it; string.punctuation is ASCII only.
PUNCTUATION = string.punctuation + "“”„‘’«»…–—¿¡。、，！？"

# Chinese, Japanese, Thai, Lao, Burmese, Khmer: no spaces between words, so that each character counts as one.
UNSPACED = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)


@dataclass(frozen=True)
class Metric:
    """`compute(prediction, reference)` gives 0 to 1, higher is better: the best over all right answers.

    With `of_facts` it is computed for each fact that a right answer states instead, and the mean counts; with
    `of_choices` it is 1 where the right one of the sample's choices is the likeliest, and nothing is written.

    Without `needs_generation` the figure comes from teacher forcing, where the engine counts it;
    `compute` then has no text to work on and refuses.
    """

    name: str
    needs_generation: bool
    compute: Callable[[str, str], float]
    of_facts: bool = False
    of_choices: bool = False


def exact_match(prediction: str, reference: str) -> float:
    """1 if both say the same but for case, white space and punctuation at the ends."""
    return float(_plain(prediction) == _plain(reference))


def f1(prediction: str, reference: str) -> float:
    """Overlap of the two bags of words, as in SQuAD: punctuation and English articles do not count."""
    ours, theirs = _words(prediction), _words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def contains(prediction: str, reference: str) -> float:
    """1 if the reference stands in the prediction, as whole words; case, white space and outer punctuation aside."""
    wanted = re.escape(_plain(reference))
    return float(re.search(rf"(?<!\w){wanted}(?!\w)", " ".join(prediction.casefold().split())) is not None)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L (F-measure): the longest sequence of words that both have in the same order. No stemming."""
    return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(PUNCTUATION + " ")


def _words(text: str) -> list[str]:
    text = "".join(char for char in text.casefold() if char not in PUNCTUATION)
    return re.findall(rf"[{UNSPACED}]|[^\s{UNSPACED}]+", re.sub(r"\b(a|an|the)\b", " ", text))


class _AnyLanguage:
    """The words of a text for rouge_score, whose own tokenizer throws away every letter that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(rf"[{UNSPACED}]|[^\W{UNSPACED}]+", text.casefold())


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_AnyLanguage())


def _from_teacher_forcing(prediction: str, reference: str) -> float:  # noqa: ARG001
    raise TypeError("this metric is counted under teacher forcing, not on generated text")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("token_accuracy", False, _from_teacher_forcing),
        Metric("accuracy", False, _from_teacher_forcing, of_choices=True),
        Metric("exact_match", True, exact_match),
        Metric("contains", True, contains),
        Metric("facts", True, contains, of_facts=True),
        Metric("f1", True, f1),
        Metric("rouge_l", True, rouge_l),
    )
}
