"""The three parts of a study: what trials see, what finalists are chosen on, what is looked at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from a2sf_core.errors import A2SFError
from studies.samples import Sample, bundled_samples
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.own_metric import find_metric
from tuner.inputs.power import Power, resolution
from tuner.inputs.tasks import Task
from tuner.settings import Settings

MIN_PER_PART = 2
REPORT_SHARE, MOST_TO_REPORT, GOOD_REPORT = 0.4, 0.65, 300
"""Of the user's own data, 40 % judge; more where that is less than 300 whole answers: few samples lack proof most."""
MOST_REPORT_SAMPLES = 4000

Item = TypeVar("Item", Sample, Encoded)


@dataclass(frozen=True)
class Parts(Generic[Item]):
    """Trials see `search`, finalists are chosen on `select`, `report` is touched once.

    `shared_contexts` counts contexts that occur in more than one part; more than 0 only where the data has
    too few contexts to keep each in one part.
    """

    search: tuple[Item, ...]
    select: tuple[Item, ...]
    report: tuple[Item, ...]
    shared_contexts: int


def split(
    items: Sequence[Item],
    seed: str,
    counts: tuple[int, int, int] | None = None,
    report_share: float = REPORT_SHARE,
) -> Parts[Item]:
    """Search, select and report, by a shuffle of the ids: the order of the file does not matter.

    Questions on the same context stay in one part, so that `report` holds texts that no trial has seen;
    sizes are met as nearly as that allows: `report_share` for the report, two thirds of the rest for the search, or
    `counts`.

    Raises:
        A2SFError: saying how many samples are needed.
    """
    wanted = counts or _from_share(len(items), report_share)
    if len(items) < sum(wanted) or min(wanted) < MIN_PER_PART:
        needed = max(sum(counts or ()), 3 * MIN_PER_PART)
        raise A2SFError(
            f"{len(items)} samples cannot be split into search, select and report; at least {needed} are "
            "needed "
            f"({MIN_PER_PART} or more in each part)."
        )
    parts = _fill(_shuffled(items, seed, _context_of), wanted)
    if min(len(part) for part in parts) < MIN_PER_PART:
        parts = _fill(_shuffled(items, seed, lambda item: item.id), wanted)
    held = [{_context_of(item) for item in part} for part in parts]
    shared = sum(sum(key in part for part in held) > 1 for key in set().union(*held))
    search, select, report = (tuple(part) for part in parts)
    return Parts(search, select, report, shared)


def report_share(n: int, resolution: float) -> float:
    """How much of `n` samples judges, for a metric of which one sample loses `resolution` points at least.

    The goal does not enter: asking for another one later must not bring samples that were searched into the report.
    """
    return min(MOST_TO_REPORT, max(REPORT_SHARE, GOOD_REPORT * resolution / 100 / n))


def _from_share(total: int, report_share: float) -> tuple[int, int, int]:
    """All samples, each part with its minimum before the rest is shared out."""
    rest = total * (1 - report_share)
    search = max(MIN_PER_PART, round(rest * 2 / 3))
    select = max(MIN_PER_PART, round(rest / 3))
    return search, select, total - search - select


def _context_of(item: Sample | Encoded) -> str:
    return item.context if isinstance(item, Sample) else item.context_key


def _shuffled(items: Sequence[Item], seed: str, key: Callable[[Item], str]) -> list[list[Item]]:
    """Groups of items with the same key. Sorted by id first, so that only ids and seed decide."""
    groups: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.id):
        groups.setdefault(key(item), []).append(item)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _fill(groups: list[list[Item]], wanted: tuple[int, int, int]) -> list[list[Item]]:
    """Give each group to the part that lacks most samples; what comes when all are full is left out."""
    parts: list[list[Item]] = [[], [], []]
    for group in groups:
        lack = [size - len(part) for part, size in zip(parts, wanted, strict=True)]
        if max(lack) > 0:
            parts[lack.index(max(lack))].extend(group)
    return parts


def encode_and_split(
    samples: Sequence[Sample], task: Task, settings: Settings, tokenizer: Any, max_tokens: int
) -> tuple[Parts[Encoded], str]:
    """The three parts as token ids, and a remark in brackets on what was cut, left out or shared; empty if nothing was.

    Raises:
        A2SFError: if no sample fits `max_tokens`, or too few do.
    """
    encoded = encode(samples, tokenizer, task, max_tokens)
    counts = None
    if settings.data is None and task.samples is not None:
        counts = (task.samples.search, task.samples.select, task.samples.report)
    share = report_share(len(encoded), resolution(find_metric(task.metric), encoded))
    parts = split(encoded, str(settings.seed), counts, share)
    remarks = {
        "cut in the middle to fit the model": encoded.n_truncated,
        "too long and left out": len(encoded.dropped),
        "contexts shared between parts": parts.shared_contexts,
    }
    said = ", ".join(f"{count} {what}" for what, count in remarks.items() if count)
    return parts, f" ({said})" if said else ""


def power_of(parts: Parts[Encoded], task: Task, goal: float) -> Power:
    """What the report samples can prove of `goal` points of the task's metric."""
    n, total = len(parts.report), sum(map(len, (parts.search, parts.select, parts.report)))
    contexts = len({sample.context_key for sample in parts.report})
    return Power(contexts, n, goal, resolution(find_metric(task.metric), parts.report), n / total)


def report_samples(
    n: int,
    at_hand: Sequence[Encoded],
    task: Task,
    settings: Settings,
    tokenizer: Any,
    max_tokens: int,
) -> Sequence[Encoded]:
    """`n` samples of the report split: fewer than are at hand, or more where the task makes its own."""
    missing = min(n, MOST_REPORT_SAMPLES) - len(at_hand)
    if missing <= 0 or settings.data is not None or task.samples is None:
        return at_hand[: max(n, MIN_PER_PART)]
    more = bundled_samples(task.samples, missing, first=task.samples.total)
    return [*at_hand, *encode(more, tokenizer, task, max_tokens)]
