"""A policy for other engines: a model folder that unmodified transformers prunes with, or their nearest settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from a2sf_core.config import FILE_NAME, A2SFConfig
from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from tuner.serving import kvpress, openvino
from tuner.serving.nearest import Nearest

_NEAREST = {"openvino": openvino.nearest, "kvpress": kvpress.nearest}
FORMATS = ("transformers", *_NEAREST)
GENERATE = Path("custom_generate", "generate.py")
_GENERATE_TEXT = '''\
"""Prunes by the a2sf_config.json beside the weights; made by `a2sf-tune export`. transformers copies this file."""

from a2sf_core.from_folder import generate

__all__ = ["generate"]
'''


def export_transformers(run: Path, folder: Path, model: str, copy: bool = False) -> Path:
    """Make `folder` of the model's files (links, unless `copy`), the policy of `run`, and custom_generate/.

    Returns:
        the folder's absolute path.

    Raises:
        A2SFError: if the policy is not for this model, the model is a .gguf file, or `folder` holds something else.
    """
    config = A2SFConfig.from_pretrained(run)
    from transformers import AutoConfig

    from tuner.inputs.model_folder import check_config, check_weights, locate_model

    source = locate_model(model).resolve()
    if source.is_file():
        raise A2SFError(f"{source.name} is a .gguf file, and transformers serve wants a folder; save the model as one.")
    check_config(source)
    check_weights(source)
    config.check_fits(AutoConfig.from_pretrained(source, local_files_only=True))
    folder = folder.absolute()
    _check_place(folder, source)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name != FILE_NAME:
            _put(file.resolve(), folder / file.name, copy)
    (folder / GENERATE).parent.mkdir(exist_ok=True)
    write_whole(folder / GENERATE, _GENERATE_TEXT)
    config.save_pretrained(folder)
    return folder


def export_nearest(run: Path, folder: Path, engine: str, tokens: int) -> tuple[tuple[Path, Path], Nearest]:
    """Write what another `engine` of `FORMATS` can take of the policy of `run`, as Python and as JSON.

    Args:
        tokens: length of a prompt, where the engine does not know shares of it.

    Returns:
        both paths, and what they say.

    Raises:
        A2SFError: if there is no policy, or it drops nothing.
    """
    policy = A2SFConfig.from_pretrained(run).policy
    found = _NEAREST[engine](policy, tokens)
    _check_no_file(folder)
    return found.write(folder), found


def _check_place(folder: Path, source: Path) -> None:
    if folder.resolve() == source:
        raise A2SFError(f"{folder} is the model itself; give another folder, for it stays as it is.")
    _check_no_file(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / GENERATE).is_file():
        raise A2SFError(f"{folder} holds something else already; give a new folder, or one of an earlier export.")


def _check_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise A2SFError(f"{folder} is a file; give a folder.")


def _put(file: Path, place: Path, copy: bool) -> None:
    place.unlink(missing_ok=True)
    if copy:
        shutil.copyfile(file, place)
    else:
        place.symlink_to(file)
