"""Which weights a study was run with: it is never resumed with another checkpoint of the same shape."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from a2sf_core.shape import fingerprint

PIECES, PIECE = 256, 512
"""A file is read at so many places, so many bytes each: hashing 14 GB whole would take longer than loading them."""
PIECES_OF_TENSOR, PIECE_OF_TENSOR = 16, 64
"""The same inside every tensor of a safetensors file, so that one changed layer is noticed."""


def model_identity(model: Any) -> str:
    """Shape, type and weights of a transformers model, in a few characters.

    The weights are told apart by the bytes of the files they were loaded from, where there are files: tensors that are
    on the meta device, offloaded or quantised need not be read then, and it does not matter in which folder the files
    lie. What was changed in memory since is not seen. Models without files are told apart by their tensors.
    """
    shape = {name: value for name, value in fingerprint(model).items() if name not in ("name", "revision")}
    digest = hashlib.sha256(json.dumps([shape, str(model.dtype)]).encode())
    files = weight_files(model)
    for file in files:
        _add_file(digest, file)
    if not files:
        _add_tensors(digest, model)
    return f"{type(model).__name__} {digest.hexdigest()[:12]}"


def weight_files(model: Any) -> list[Path]:
    """The files that a model's weights were loaded from, by name; empty for a model made in memory."""
    folder = Path(model.name_or_path) if model.name_or_path else None
    if folder is None or not folder.is_dir():
        return []
    quantised = getattr(model.config, "quantization_config", None)
    as_dict = quantised if isinstance(quantised, dict) else vars(quantised) if quantised else {}
    name = as_dict.get("gguf_file")
    return [folder / name] if name else sorted(folder.glob("*.safetensors"))


def _add_file(digest: Any, file: Path) -> None:
    """Size, header and a sample of the bytes of one file."""
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as opened:
        for start, stop, pieces, piece in _regions(opened, file, size):
            step = max(piece, (stop - start) // pieces)
            for place in range(start, stop, step):
                opened.seek(place)
                digest.update(opened.read(min(piece, stop - place)))


def _regions(opened: Any, file: Path, size: int) -> list[tuple[int, int, int, int]]:
    """Byte ranges to sample as (start, stop, pieces, bytes of a piece): tensor by tensor where those are known."""
    if file.suffix != ".safetensors":
        return [(0, size, PIECES, PIECE)]
    length = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(length))
    tensors = sorted(each["data_offsets"] for name, each in header.items() if name != "__metadata__")
    first = 8 + length
    inside = [(first + start, first + stop, PIECES_OF_TENSOR, PIECE_OF_TENSOR) for start, stop in tensors]
    return [(0, first, 1, first), *inside]


def _add_tensors(digest: Any, model: Any) -> None:
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().flatten()
        some = flat[:: max(1, flat.numel() // 4096)].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
