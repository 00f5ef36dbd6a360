"""All rules by name: what an exported file may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.learned import Learned
from a2sf_core.rules.norms import KeyNorm, ValueWeighted
from a2sf_core.rules.position import Position, Random

RULES: dict[str, type[ScoreRule]] = {
    rule.name: rule
    for rule in (
        Decay,
        Window,
        Position,
        Random,
        KeyNorm,
        ValueWeighted,
        Learned,
    )
}
"""One row per rule."""


def read_rule(data: Any, where: str) -> ScoreRule:
    """Read what `ScoreRule.to_dict` wrote.

    Raises:
        A2SFError: for a rule of no known name (with the nearest one), an unknown field or a bad value.
    """
    if not isinstance(data, Mapping):
        raise A2SFError(f'{where} must be a JSON object such as {{"name": "decay", "half_life": 16}}, not {data!r}.')
    name = data.get("name")
    if not isinstance(name, str) or name not in RULES:
        hint = did_you_mean(name, RULES, f"the rules are {', '.join(RULES)}.")
        raise A2SFError(f"{where} is {name!r}; {hint}")
    given = {
        key: read_rule(value, f"{where}.{key}") if isinstance(value, Mapping) else value
        for key, value in data.items()
        if key != "name"
    }
    return RULES[name].read(given, where)
