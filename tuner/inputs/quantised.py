"""Models whose weights are int8, as torchao quantises them and transformers saves them: safetensors, nothing pickled.

torchao makes an object of whatever class a config names, so that only the names that such models need are let through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from tuner.choices import check_installed

NAMES = {"Int8WeightOnlyConfig", "PerRow"}
"""What torchao's Int8WeightOnlyConfig() writes into a config."""


def check_quantised(path: Path, config: Mapping[str, Any]) -> None:
    """Raise A2SFError if `config`, read from `path`, asks for a quantisation by torchao that is not read here."""
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict):
        return
    check_installed(f"{path}: reading quantised weights", ("accelerate",), "large")
    if quantised.get("quant_method") != "torchao":
        return
    if find_spec("torchao") is None:
        raise A2SFError(
            f"{path}: the weights are quantised by torchao, which is not installed; get it with 'pip install torchao'."
        )
    for name in _names(quantised):
        if not isinstance(name, str) or name not in NAMES:
            raise A2SFError(
                f"{path}: the weights are quantised by torchao with {str(name)[:80]!r}; of its ways only int8 weights "
                "(Int8WeightOnlyConfig) are read here; save the model so, or take it as it was before."
            )


def is_quantised(folder: Path) -> bool:
    """Whether the weights in a model's folder are: they are put where they belong as they are read, and never moved."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return isinstance(config.get("quantization_config"), dict)


def _names(config: Mapping[str, Any]) -> Iterator[Any]:
    """Every class that `config` names, at any depth."""
    waiting: list[Any] = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "_type" in each:
                yield each["_type"]
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
