"""kvpress in an environment of its own, since it needs an older transformers, with the same weights as the project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a2sf_core.errors import A2SFError
from benchmarks.lab import console
from tuner.inputs.identity import model_identity

VERSION = "0.5.5"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "a2sf-peers"
SCRIPT = Path(__file__).with_name("kvpress_sets.py")
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
PRESSES = (
    "StreamingLLM",
    "ObservedAttention (H2O)",
    "TOVA",
    "SnapKV",
    "SnapKV, window 16",
    "PyramidKV",
    "ExpectedAttention",
    "AdaKV, SnapKV window 16",
    "AdaKV, ExpectedAttention",
    "KVzip",
)
"""What `kvpress_sets.py` knows, which cannot be imported here."""
REREADS = "KVzip"
"""The only one of them that reads a prompt again for every request."""
MASKS_ONLY = ("AdaKV, SnapKV window 16", "AdaKV, ExpectedAttention", "KVzip")
"""kvpress hides what these drop and frees nothing."""


def label(method: str, share: float) -> str:
    """What a kept set is called, here and in `kvpress_sets.py`."""
    return f"{method} at {share:g}"


class Kvpress:
    """An environment with kvpress, and one model handed over to it.

    Args:
        cache: the folder where environment, weights and what was found lie; made where it is missing.
    """

    def __init__(self, cache: Path, model: Any, tokenizer: Any) -> None:
        self._cache = cache
        self._python = _environment(cache / f"kvpress-{VERSION}")
        self.identity = model_identity(model).replace(" ", "-")
        self._model = _handed_over(model, tokenizer, cache / "models" / self.identity)

    def sets(self, prompts: Mapping[str, Sequence[int]], methods: Sequence[str], shares: Sequence[float]) -> Path:
        """A folder with one .npz of kept sets per prompt, under its name; what is there already is not asked again."""
        out = self._cache / "sets" / f"{self.identity}-{VERSION}"
        jobs: dict[tuple[tuple[str, ...], tuple[float, ...]], dict[str, Sequence[int]]] = {}
        for name, ids in prompts.items():
            known = _names(out / f"{name}.npz")
            missing = [(m, share) for m in methods for share in shares if label(m, share) not in known]
            if missing:
                lacking = {method for method, _ in missing}, {share for _, share in missing}
                which = tuple(m for m in methods if m in lacking[0]), tuple(s for s in shares if s in lacking[1])
                jobs.setdefault(which, {})[name] = ids
        for (some, at), lacking_prompts in jobs.items():
            self._do("sets", out, lacking_prompts, some, at)
        return out

    def native(self, ids: Sequence[int], text: Sequence[int], methods: Sequence[str], share: float) -> Path:
        """The .npz of logits `[token, vocab]` of `text` per method, as kvpress itself serves them."""
        out = self._cache / "native" / self.identity
        self._do("native", out, {"one": ids}, methods, [share], text)
        return out / "one.npz"

    def cost(
        self, prompts: Mapping[str, Sequence[int]], methods: Sequence[str], share: float
    ) -> dict[str, dict[str, list[float]]]:
        """Per method, the full cache among them: "seconds" to the first token and "bytes" held, per prompt."""
        out = self._cache / "cost" / self.identity
        self._do("cost", out, prompts, methods, [share])
        found: dict[str, dict[str, list[float]]] = json.loads((out / "cost.json").read_text())
        return found

    def _do(
        self,
        do: str,
        out: Path,
        prompts: Mapping[str, Sequence[int]],
        methods: Sequence[str],
        shares: Sequence[float],
        text: Sequence[int] = (),
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        job = {
            "do": do,
            "threads": torch.get_num_threads(),
            "model": str(self._model),
            "out": str(out),
            "methods": list(methods),
            "shares": list(shares),
            "prompts": {name: list(ids) for name, ids in prompts.items()},
            "text": list(text),
        }
        file = out / f"job-{do}-{os.getpid()}.json"
        file.write_text(json.dumps(job))
        # -P: the folder of the script is not a place to import from.
        if subprocess.run([self._python, "-P", SCRIPT, file], check=False).returncode:
            raise A2SFError(f"kvpress failed; what it said is above, and {file} is what it was asked.")
        file.unlink()


def _names(file: Path) -> set[str]:
    """The kept sets in a file; none if there is no such file."""
    if not file.exists():
        return set()
    with np.load(file) as known:
        return set(known.files)


def _environment(folder: Path) -> Path:
    """The Python of a virtual environment with kvpress and this project's torch, made if it is not there."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / ".installed"
    if not done.exists():
        console.print(f"Installing kvpress {VERSION} into {folder}: minutes")
        venv.create(folder, with_pip=True, clear=True)
        same = f"torch=={torch.__version__.partition('+')[0]}"
        command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), same, f"kvpress=={VERSION}"]
        if subprocess.run(command, check=False).returncode:
            raise A2SFError(f"kvpress {VERSION} could not be installed; pip's reason is above.")
        done.touch()
    return python


def _handed_over(model: Any, tokenizer: Any, folder: Path) -> Path:
    """A folder in Hugging Face format that an older transformers reads too: float32 and nothing quantised."""
    if not (folder / "tokenizer_config.json").exists():
        config = type(model.config).from_dict(model.config.to_dict())
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(model)(config).float()
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
