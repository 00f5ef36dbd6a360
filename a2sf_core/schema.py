"""Older schemas of a2sf_config.json, brought up to the one that is written today."""

from __future__ import annotations

from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int
from a2sf_core.rules.attention import Decay

# Schema 1 had two rules, told apart by whether a window was given; schema 2 names the rule.
_OF_DECAY = ("half_life", "alpha")
_FIELDS = ("half_life", "budget", "recent", "sink", "window", "alpha")


def upgraded(policy: Any) -> Any:
    """A policy of schema 1 in the words of schema 2, which checks what both have.

    Raises:
        A2SFError: for an unknown field of a layer (with the nearest known one), or a bad value that schema 2 would not
            show.
    """
    layers = policy.get("layers") if isinstance(policy, dict) else None
    if not isinstance(layers, list):
        return policy
    return policy | {"layers": [_upgraded_layer(layer, f"policy layer {i}") for i, layer in enumerate(layers)]}


def _upgraded_layer(layer: Any, where: str) -> dict[str, Any]:
    given = dict(check_keys(layer, _FIELDS, (), where))
    window = given.pop("window", None)
    decay = {name: given.pop(name) for name in _OF_DECAY if name in given}
    if window is None:
        return {"rule": {"name": "decay", **decay}, **given}
    if not is_int(window) or window < 1:
        raise A2SFError(f"{where}: window must be an integer of at least 1 query or None, not {window!r}.")
    try:
        Decay.read(decay, where)  # moot under a window, but what contradicts itself was never written
    except A2SFError as error:
        raise A2SFError(f"{where}: {error}") from None
    return {"rule": {"name": "window", "queries": window}, **given}
