"""A LoRA adapter, merged into the model that it was trained for: what is tuned is the model that is served."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import parse_json, read_text
from tuner.inputs.model_folder import brief

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def with_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter in `folder` merged into its weights.

    Raises:
        A2SFError: if peft is not installed, the folder holds no adapter, or one for a model of another shape.
    """
    check_adapter(folder)
    _check_shapes(model, folder)
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise A2SFError(f"The adapter in {folder} cannot be merged: {brief(error)}.") from error


def check_adapter(folder: Path) -> None:
    """Raise A2SFError unless `folder` holds an adapter that can be read; quick, without the model."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            is_pickled = (folder / "adapter_model.bin").exists()
            pickled = " (adapter_model.bin is pickled and never opened)" if is_pickled else ""
            raise A2SFError(
                f"--adapter {folder} has no {name}{pickled}; give the folder that peft's save_pretrained wrote."
            )
    if (kind := _config(folder).get("peft_type")) != "LORA":
        raise A2SFError(f"{folder / CONFIG} is of a {kind!r} adapter; only LORA can be merged into the weights.")
    if find_spec("peft") is None:
        raise A2SFError('--adapter needs the package peft; install "a2sf-tune[adapter]".')


def adapter_identity(folder: Path) -> str:
    """The adapter's weights and settings in a few characters."""
    # peft writes sets as lists in any order.
    config = {
        name: sorted(map(str, value)) if isinstance(value, list) else value for name, value in _config(folder).items()
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update((folder / WEIGHTS).read_bytes())
    return digest.hexdigest()[:12]


def _config(folder: Path) -> dict[str, Any]:
    path, mend = folder / CONFIG, "export the adapter again."
    found = parse_json(read_text(path, "the adapter's settings", mend), f"{path} is not a JSON object", mend)
    if not isinstance(found, dict):
        raise A2SFError(f"{path} is not a JSON object; {mend}")
    return found


def _check_shapes(model: Any, folder: Path) -> None:
    """peft would leave out what it finds no place for, and only warn."""
    from safetensors import SafetensorError, safe_open

    modules = dict(model.named_modules())
    try:
        with safe_open(folder / WEIGHTS, "pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise A2SFError(f"{folder / WEIGHTS} is damaged or cut off ({brief(error)}); copy it again.") from None
    for name, shape in shapes.items():
        place, _, kind = name.removeprefix(_PREFIX).partition(".lora_")
        weight = getattr(modules.get(place), "weight", None)
        wanted = None if weight is None else weight.shape[1 if kind.startswith("A") else 0]
        if kind[:1] in ("A", "B") and wanted != shape[1 if kind.startswith("A") else 0]:
            has = "has no such part" if wanted is None else f"has {wanted}"
            raise A2SFError(
                f"The adapter in {folder} is for another base: its {place} takes {list(shape)}, the model {has}; give "
                "--model the base that adapter_config.json names."
            )
