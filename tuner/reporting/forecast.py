"""How long a run will take and what it will hold, from a few prompts: an estimate, made before anything is searched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from a2sf_core.placement import layer_devices
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from tuner.alpha.table import BUDGET_SCALES, places
from tuner.inputs.check import Inputs
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import max_tokens, model_of
from tuner.inputs.splits import Parts, encode_and_split, power_of
from tuner.judging.grading import Grader
from tuner.measuring.engine import Engine
from tuner.measuring.memory import allowed_memory
from tuner.measuring.texts import Ends
from tuner.search.dimensions import Dimensions
from tuner.search.profiles import SHALLOW
from tuner.settings import Settings

TRIED = 8
"""Prompts that are read for it."""
PROFILE, DEEP_PROFILE, LOOKS, KLS, RUNGS = 50, 16, 17, 25, 16
"""Policies that are measured besides the trials, about: by the profile (of a model with more than `SHALLOW` layers
fewer), by the choice with texts (`LOOKS`) and without (`KLS`), and on the report samples."""
WITH_TEXTS = 4
"""Times what it costs to measure a policy, where its texts are written too."""


@dataclass(frozen=True)
class Forecast:
    """`seconds` by step, in their order; `held` bytes of keys, values and orders, of which `memory` may be used."""

    seconds: dict[str, float]
    held: int
    memory: int

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {_minutes(spent)}" for name, spent in self.seconds.items())
        said = f"Time      about {_minutes(sum(self.seconds.values()))} on this machine ({steps})"
        fits = "which fits" if self.held <= self.memory else "so prompts are read again when needed, which is slower"
        return f"{said}\nMemory    {_size(self.held)} of prompts, of {_size(self.memory)} that may be used, {fits}"


def forecast(
    model: Any, parts: Parts[Encoded], bank: Sequence[ScoreRule], ends: Ends, trials: int, memory: int,
    writes: bool = True,
) -> Forecast:  # fmt: skip
    """Read `TRIED` prompts and measure one policy on them.

    Args:
        bank: the rules that the search may choose from.
        ends: of the texts that the full cache writes.
        memory: bytes that may be used for prompts.
        writes: whether the metric is one of text that is written.
    """
    some = parts.search[:TRIED]
    started = time.perf_counter()
    engine = Engine(model, some, bank=bank, ends=ends)
    per_token = (time.perf_counter() - started) / _tokens(some)
    policies = [Policy.h2o(engine.n_layers, budget) for budget in (0.2, 0.3)]
    engine.evaluate(policies[0])  # what is done once is not counted
    started = time.perf_counter()
    engine.evaluate(policies[1])
    one = (time.perf_counter() - started) / len(some)
    search, select, report = len(parts.search), len(parts.select), len(parts.report)
    tokens = _tokens([*parts.search, *parts.select, *parts.report])
    profile = PROFILE if engine.n_layers <= SHALLOW else DEEP_PROFILE
    look = WITH_TEXTS if writes else 1
    seconds = {
        "reading": tokens * per_token,
        "searching": (profile + trials) * search * one,
        "choosing": (LOOKS * look + KLS) * (search + select) * one,
        "proving": RUNGS * look * report * one,
        "fitting alpha": len(places(engine)) * (len(BUDGET_SCALES) * search + select) * one,
    }
    orders = len(bank) * engine.n_layers * engine.n_kv_heads * 2  # int16, a place in the order of each rule
    return Forecast(seconds, tokens * (engine.bytes_per_token + orders), memory)


def _tokens(samples: Sequence[Encoded]) -> int:
    """Of all prompts, those that are shared by several samples counted once, as they are read and held."""
    return sum(map(len, {sample.prompt_ids for sample in samples}))


def preview(settings: Settings, inputs: Inputs) -> str:
    """What a run with these settings would do: parts, what they can prove, time and memory. Nothing is written."""
    task = inputs.task
    model, tokenizer = model_of(settings)
    parts, remark = encode_and_split(inputs.samples, task, settings, tokenizer, max_tokens(model, tokenizer))
    n_layers = model.config.get_text_config().num_hidden_layers
    bank = Dimensions(settings.family, settings.per_head, n_layers, rules=settings.rules).bank
    memory = allowed_memory(settings.memory, layer_devices(model))
    grader = Grader.of(task, model, tokenizer)
    writes = grader.metric.needs_generation
    return "\n".join([
        f"Parts     {parts}{remark}",
        f"Power     {power_of(parts, task, settings.max_degradation)}",
        str(forecast(model, parts, bank, grader.ends, settings.trials, memory, writes)),
    ])  # fmt: skip


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
