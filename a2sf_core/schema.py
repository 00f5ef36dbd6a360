"""Older schemas of a2sf_config.json, brought up to the one that is written today."""

from __future__ import annotations

from typing import Any

# Schema 1 had two rules, told apart by whether a window was given; schema 2 names the rule.
_OF_DECAY = ("half_life", "alpha")


def upgraded(policy: Any) -> Any:
    """A policy of schema 1 in the words of schema 2; what is malformed is left for the reader of schema 2 to refuse."""
    layers = policy.get("layers") if isinstance(policy, dict) else None
    if not isinstance(layers, list):
        return policy
    return policy | {"layers": [_upgraded_layer(layer) if isinstance(layer, dict) else layer for layer in layers]}


def _upgraded_layer(layer: dict[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in layer.items() if name not in (*_OF_DECAY, "window")}
    if layer.get("window") is not None:
        return {"rule": {"name": "window", "queries": layer["window"]}, **others}
    return {"rule": {"name": "decay"} | {name: layer[name] for name in _OF_DECAY if name in layer}, **others}
