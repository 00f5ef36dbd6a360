"""A model's folder: found here or brought down from the Hub, and found fit before anything heavy is read."""

from __future__ import annotations

import difflib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import MAX_FILE, check_regular, shortened
from tuner.choices import REFERENCE, SMOLLM2
from tuner.inputs.gguf import gguf_file, smollm2_file
from tuner.inputs.hub import HUB_NAME, hub_blocked
from tuner.inputs.model_sizes import check_sizes, shards_of
from tuner.inputs.quantised import check_quantised

INDEX = "model.safetensors.index.json"
# What a model needs of a Hub repository; leaves out second copies of the weights in other formats.
HUB_FILES = ["config.json", "generation_config.json", "model*.safetensors", INDEX]
HUB_FILES += ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.jinja"]
HUB_FILES += ["vocab*", "merges.txt", "*.model", "tekken.json"]


def locate_model(name_or_dir: str) -> Path:
    """The folder or .gguf file that holds the model, downloaded if need be.

    Quick to say no, as it needs neither torch nor a model.

    Raises:
        A2SFError: if there is no such folder, or the Hub does not have it or does not answer.
    """
    return local_folder(name_or_dir) or _from_hub(name_or_dir)


def local_folder(name_or_dir: str) -> Path | None:
    """The folder or .gguf file of a model on this machine; None for what can only be a name on the Hub.

    The Hub is not asked.

    Raises:
        A2SFError: if there is no such folder and the Hub has no names like this one.
    """
    if name_or_dir == REFERENCE:
        folder = Path(str(files("studies"))) / "reference_model"
        if not (folder / "config.json").exists():
            raise A2SFError(
                f"The reference model is not in {folder}; install the project again, or train it with "
                f"'python -m studies.train --out {folder}'."
            )
        return folder
    if name_or_dir == SMOLLM2:
        return smollm2_file()
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        gguf_file(path)  # several would have to be told apart
        return path
    if path.suffix == ".gguf" and path.exists():
        return path
    if path.exists():
        raise A2SFError(
            f"{path} is a file; give the folder that holds config.json, the .safetensors and the tokenizer, or a .gguf "
            "file."
        )
    if path.suffix == ".gguf" or not HUB_NAME.fullmatch(name_or_dir):
        raise A2SFError(
            f"There is no model {'file' if path.suffix == '.gguf' else 'folder'} {name_or_dir!r}; {_near_name(path)}"
            "expected a folder, a .gguf file, a Hub name such as 'owner/model', 'reference' or 'smollm2'."
        )
    return None


def _near_name(path: Path) -> str:
    """A hint at the most alike of the bundled names and the models beside `path`; empty if none is alike."""
    beside = path.parent.iterdir() if path.parent.is_dir() else []
    names = [REFERENCE, SMOLLM2, *(str(each) for each in beside if each.is_dir() or each.suffix == ".gguf")]
    near = difflib.get_close_matches(str(path), names, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _from_hub(name: str) -> Path:
    hint = _near_name(Path(name))
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
        raise A2SFError(f"Model {name!r} could not be downloaded: {brief(error)}.") from error


def check_config(folder: Path) -> None:
    """Raise A2SFError unless config.json is that of a decoder-only language model that transformers knows."""
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
    check_sizes(folder, config)
    check_quantised(path, config)

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
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise A2SFError(f"{path}: architectures must be a list of names, not {shortened(architectures)}.")
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
    except MemoryError:
        raise A2SFError(
            f"There is not enough memory to read {path}; free some, or raise the limit (ulimit -v)."
        ) from None
    except Exception as error:  # every model checks its fields its own way
        raise A2SFError(f"{path} is not a usable config: {brief(error)}.") from error


def check_weights(folder: Path) -> None:
    """Raise A2SFError unless all weights are there, as safetensors."""
    index = folder / INDEX
    if index.is_file():
        shards = shards_of(_read_json(index), index)
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        check_regular(path, "the file", MAX_FILE)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise A2SFError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise A2SFError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise A2SFError(f"{path} must hold a JSON object; download it again.")
    return content


def brief(error: BaseException) -> str:
    """What a library says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:200] + " ...").rstrip(".")
