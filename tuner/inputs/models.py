"""Load a causal language model and its tokenizer, from a folder, the Hub or the project itself.

Everything is brought down to a folder first, so that a local model and one from the Hub pass the same checks.
Code that comes with a model is never run, and pickled weights are never opened.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2sf_core.errors import A2SFError
from tuner.inputs.hub import HUB_NAME, hub_blocked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REFERENCE = "reference"
DTYPES = ("auto", "float32", "bfloat16", "float16")
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
# What a model needs of a Hub repository; leaves out second copies of the weights in other formats.
HUB_FILES = ["config.json", "generation_config.json", "model*.safetensors", INDEX]
HUB_FILES += ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.jinja"]
HUB_FILES += ["vocab*", "merges.txt", "*.model", "tekken.json"]


def load_model(
    name_or_dir: str, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode on its device, and its tokenizer.

    ``name_or_dir`` is "reference" (the bundled model), a folder in Hugging Face format, or a name on the Hub.
    ``device`` "auto" is CUDA where there is one; ``dtype`` "auto" is the stored type, but float32 on a CPU,
    where half precision is slow.

    Raises:
        A2SFError: naming the file or argument, what was expected and how to mend it.
    """
    place = _device(device)
    folder = locate_model(name_or_dir)
    _check_config(folder)
    _check_weights(folder)
    tokenizer = _load_tokenizer(folder)
    model = _load_weights(folder, _dtype(dtype, place))
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise A2SFError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, the model embeds {rows}: they do not "
            "belong together; "
            "copy the tokenizer files that came with the model."
        )
    try:
        return model.to(place).eval(), tokenizer
    except RuntimeError as error:
        raise A2SFError(f"The model does not go onto device {place}: {_brief(error)}.") from None


def max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model takes; ``sys.maxsize`` if neither config nor tokenizer knows a limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and limit > 0:
        return limit
    # transformers writes 1e30 where the tokenizer has no limit.
    return tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000_000 else sys.maxsize


def _device(device: str) -> torch.device:
    import torch

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


def locate_model(name_or_dir: str) -> Path:
    """The folder that holds the model, downloaded if need be; quick to say no, as it needs neither torch nor a model.

    Raises:
        A2SFError: if there is no such folder, or the Hub does not have it or does not answer.
    """
    if name_or_dir == REFERENCE:
        folder = Path(str(files("studies"))) / "reference_model"
        if not (folder / "config.json").exists():
            raise A2SFError(
                f"The reference model is not in {folder}; install the project again, or train it with "
                f"'python -m studies.train --out {folder}'."
            )
        return folder
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise A2SFError(
            f"{path} is a file; give the folder that holds config.json, the .safetensors and the tokenizer."
        )
    near = _near_name(path)
    hint = f"did you mean {near!r}? " if near else ""
    if not HUB_NAME.fullmatch(name_or_dir):
        raise A2SFError(
            f"There is no model folder {name_or_dir!r}; {hint}"
            "expected a folder, a Hub name such as 'owner/model', or 'reference'."
        )
    return _from_hub(name_or_dir, hint)


def _near_name(path: Path) -> str | None:
    """The most alike of "reference" and the folders beside ``path``."""
    beside = path.parent.iterdir() if path.parent.is_dir() else []
    names = [REFERENCE, *(str(each) for each in beside if each.is_dir())]
    return next(iter(difflib.get_close_matches(str(path), names, n=1)), None)


def _from_hub(name: str, hint: str) -> Path:
    blocked = hub_blocked()

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=blocked is not None))
    except GatedRepoError:
        raise A2SFError(
            f"Model {name!r} asks you to accept its terms: do so on its Hub page, then run 'hf auth login'."
        ) from None
    except RepositoryNotFoundError:
        raise A2SFError(
            f"There is no model {name!r} on the Hub, and no folder of that name here; {hint}"
            "check the spelling, or run 'hf auth login' if it is private."
        ) from None
    except LocalEntryNotFoundError:
        raise A2SFError(
            f"There is no folder {name!r}, and the model was not downloaded before and cannot be now "
            f"({blocked or 'the Hub does not answer'}); {hint}give a model folder, or 'reference' for the "
            "bundled model."
        ) from None
    except Exception as error:  # of the network stack
        raise A2SFError(f"Model {name!r} could not be downloaded: {_brief(error)}.") from None


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").exists():
            raise A2SFError(
                f"{folder} holds an adapter, not a whole model; merge it into its base model first (peft "
                "merge_and_unload)."
            )
        found = ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "nothing"
        raise A2SFError(f"{folder} is no model folder: it has no config.json (it has {found}).")
    config = _read_json(path)

    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in config:
            raise A2SFError(
                f"{path}: model type {kind!r} needs Python code from the model's own folder, which is "
                "never run here; "
                "use a model that transformers supports itself."
            )
        near = difflib.get_close_matches(str(kind), CONFIG_MAPPING_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the file, or upgrade transformers."
        raise A2SFError(f"{path}: transformers knows no model_type {kind!r}; {hint}")
    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder") or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise A2SFError(
            f"{path}: {kind!r} is not a decoder-only language model, and only these have the cache that is "
            "tuned here; "
            "use one such as Llama, Qwen, Mistral or GPT-NeoX."
        )
    if any(name.endswith("ForMaskedLM") for name in architectures):
        raise A2SFError(f"{path}: {architectures[0]} fills gaps and does not write on; use a causal language model.")
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every model checks its fields its own way
        raise A2SFError(f"{path} is not a usable config: {_brief(error)}.") from None


def _check_weights(folder: Path) -> None:
    index = folder / INDEX
    if index.is_file():
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise A2SFError(
                f"{folder} lacks {missing[0]}, one of {len(shards)} weight files in {INDEX}; download the model again."
            )
        return
    if (folder / "model.safetensors").is_file():
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise A2SFError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run code when it is opened; "
            "convert them "
            "where you trust them: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder) "
            "writes safetensors."
        )
    raise A2SFError(f"{folder} has a config.json but no model.safetensors; copy or download the weights into it.")


def _load_tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise A2SFError(
            f"{folder} has no tokenizer (expected tokenizer.json or tokenizer.model); copy the tokenizer "
            "files of the model "
            "into it, or write them with tokenizer.save_pretrained(folder)."
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception on a broken file
        raise A2SFError(f"The tokenizer in {folder} cannot be read: {_brief(error)}.") from None


def _load_weights(folder: Path, dtype: str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise A2SFError(
            f"The weights in {folder} are damaged or cut off ({_brief(error)}); download them again."
        ) from None
    except (OSError, ValueError, RuntimeError, ImportError, TypeError, KeyError, AttributeError) as error:
        raise A2SFError(f"The model in {folder} cannot be loaded: {_brief(error)}.") from None
    if report["missing_keys"]:
        # transformers would fill these with random numbers and only warn.
        raise A2SFError(
            f"The weights in {folder} lack {len(report['missing_keys'])} of the model's tensors, such as "
            f"{sorted(report['missing_keys'])[0]!r}; they belong to another kind of model or are incomplete."
        )
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise A2SFError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise A2SFError(f"{path} is not valid JSON ({error}); download it again.") from None
    if not isinstance(content, dict):
        raise A2SFError(f"{path} must hold a JSON object; download it again.")
    return content


def _brief(error: BaseException) -> str:
    """What a library says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:200] + " ...").rstrip(".")
