"""The shape of a model: what must be equal for a policy to fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int
from a2sf_core.foreign import shortened

# A policy fits every model with the same shape; name and revision are information for the reader.
SHAPE = ("architecture", "n_layers", "n_kv_heads", "head_dim", "hidden_size", "vocab_size")
FINGERPRINT = (*SHAPE, "name", "revision")


def fingerprint(model_or_config: Any) -> dict[str, Any]:
    """The shape of a transformers model (or its config), with its name and revision as information.

    Returns:
        architecture, n_layers, n_kv_heads, head_dim, hidden_size, vocab_size, name, revision.
    """
    outer = getattr(model_or_config, "config", model_or_config)
    text = outer.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None)
    return {
        "architecture": outer.model_type,
        "n_layers": text.num_hidden_layers,
        "n_kv_heads": n_kv_heads(text),
        "head_dim": text.hidden_size // heads if head_dim is None else head_dim,
        "hidden_size": text.hidden_size,
        "vocab_size": text.vocab_size,
        "name": _public(getattr(outer, "_name_or_path", None)),
        "revision": getattr(outer, "_commit_hash", None),
    }


def _public(name: str | None) -> str | None:
    """A folder's last name: where it lies is nobody's business who reads an exported file."""
    return (os.path.basename(name.rstrip("/\\")) if os.path.isabs(name) else name) if name else None


def check_fingerprint(data: Any) -> Mapping[str, Any]:
    """Return `data` if it is what `fingerprint` gives.

    Raises:
        A2SFError: naming the field that is unknown, missing or of another kind.
    """
    given = check_keys(data, FINGERPRINT, SHAPE, "model fingerprint")
    for name in FINGERPRINT:
        value = given.get(name)
        if name in SHAPE[1:]:
            fits, wanted = is_int(value) and value >= 1, "an integer of at least 1"
        else:
            fits, wanted = isinstance(value, str), "text"
            if name not in SHAPE:
                fits, wanted = fits or value is None, "text or null"
        if not fits:
            raise A2SFError(f"model fingerprint: {name} must be {wanted}, not {shortened(value)}.")
    return given


def n_kv_heads(text_config: Any) -> int:
    """KV heads of a layer: as many as query heads if the model does not group them."""
    kv_heads = getattr(text_config, "num_key_value_heads", None)
    return text_config.num_attention_heads if kv_heads is None else kv_heads
