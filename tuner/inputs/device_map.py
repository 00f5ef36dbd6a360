"""Weights that are spread over devices, host memory and disk (`--device-map`), which accelerate does.

Weights on disk are read again, layer by layer, at every forward, from the model's own .safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean, is_int
from a2sf_core.foreign import parse_json, read_text, shortened
from tuner.choices import DEVICE_MAPS, check_installed

DeviceMap = str | Mapping[str, int | str]


def read_device_map(given: str, device: str = "auto") -> DeviceMap:
    """What transformers is told: one of `DEVICE_MAPS`, or from a .json file the device of each of the model's modules.

    Raises:
        A2SFError: for another name, a file that says something else, a `device` beside it, or without accelerate.
    """
    if device != "auto":
        raise A2SFError(f"--device {device} and --device-map {given} both place the model; leave one of them out.")
    if not given.endswith(".json") and given not in DEVICE_MAPS:
        hint = did_you_mean(given, DEVICE_MAPS, f"expected one of {', '.join(DEVICE_MAPS)}, or a .json file.")
        raise A2SFError(f"--device-map is {given!r}; {hint}")
    found = _from_file(Path(given)) if given.endswith(".json") else given
    check_installed("--device-map", ("accelerate",), "large")  # last: a slip is worth knowing before an installation
    return found


def _from_file(path: Path) -> DeviceMap:
    mend = 'expected an object such as {"model.embed_tokens": 0, "model.layers.0": "cpu", "lm_head": "disk"}.'
    found: Any = parse_json(read_text(path, "the device map", mend), f"the device map {path}", mend)
    if not isinstance(found, dict) or not found:
        raise A2SFError(f"the device map {path} is {shortened(found)}; {mend}")
    for module, place in found.items():
        if not (is_int(place) and place >= 0) and not (isinstance(place, str) and place):
            raise A2SFError(f"the device map {path}: {module!r} is on {shortened(place)}; {mend}")
    return found


def check_mergeable(model: Any) -> None:
    """Raise A2SFError if weights of `model` are offloaded, so that no adapter can be merged into them."""
    if any(weight.device.type == "meta" for weight in model.parameters()):
        raise A2SFError(
            "--adapter is merged into the weights, and --device-map has offloaded some of these; merge it beforehand "
            "(peft merge_and_unload), or give a device map without cpu and disk beside a GPU."
        )
