"""Tasks, texts and samples for the tests of this folder."""

from __future__ import annotations

from studies.samples import Sample
from tuner.inputs.tasks import Task


def task(prompt: str = "{context}\nQuestion: {question}\nAnswer:", max_new_tokens: int = 4) -> Task:
    return Task(name="t", title="t", prompt=prompt, metric="f1", max_new_tokens=max_new_tokens)


def words(count: int) -> str:
    return " ".join(str(10 + index % 90) for index in range(count))


def sample(context: str, answer: str = "It is on Monday.", question: str = "When?", name: str = "s") -> Sample:
    return Sample(name, context, question, answer)
