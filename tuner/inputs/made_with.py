"""What a study was made with: what must be the same for a resume to make sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2sf_core.cuts import PROMPT
from studies.samples import Sample
from tuner.inputs.data import content_hash
from tuner.inputs.identity import model_identity
from tuner.inputs.own_metric import source_digest
from tuner.inputs.prompting import Prompting
from tuner.inputs.tasks import Task

DIGITS = 12
"""Of a hash that is shown."""


def inputs_identity(model: Any, tokenizer: Any, task: Task, samples: Sequence[Sample]) -> dict[str, str]:
    """Model, task and data by name; a metric of the user's own, a chat template and an early cut where they are used.

    Studies from before there was another cut have none of it: they were cut after the whole prompt.
    """
    optional = {
        "cut": "" if task.cut == PROMPT else task.cut,
        "metric's source": source_digest(task.metric)[:DIGITS],
        "chat template": Prompting(task, tokenizer).template,
    }
    return {
        "model": model_identity(model),
        "task": f"{task.name} {task.digest()[:DIGITS]}",
        "data": content_hash(samples)[:DIGITS],
        **{name: value for name, value in optional.items() if value},
    }
