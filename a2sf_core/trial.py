"""What is taken for granted of a model is tried: attached and with its whole cache it must say what it says unattached.

A family may apply its window in the mask alone, or keep something else than keys and values of one shape; neither shows
before a forward. It is tried once per process for a class and a config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from a2sf_core.errors import A2SFError
from a2sf_core.placement import input_device

SHORT = 24
"""Tokens of the prompt that is tried where no window is in the way."""
WINDOW = 8
"""Windows are made so short for the trial: a real one of 4096 tokens would cost seconds."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Greatest difference of logits, as a share of the greatest logit; half precision rounds far more."""
ROUGH = 0.05

_tried: set[tuple[type, str]] = set()


@torch.no_grad()
def try_once(model: Any, attached: Callable[[], AbstractContextManager[Any]]) -> None:
    """Raise A2SFError, with the reason, if `model` says something else inside `attached()` than outside.

    Args:
        model: in eval mode; in training nothing is tried, for dropout would tell the two apart.
        attached: attaches it with its full cache.
    """
    key = type(model), model.config.to_json_string(use_diff=False)
    if key in _tried or model.training or input_device(model).type == "meta":
        return
    with _short_windows(model) as shortened:
        differs = _difference(model, attached, SHORT)
    if differs and shortened:  # perhaps only because the window is kept in places that are not known here
        differs = _difference(model, attached, _length(model))
    if differs:
        raise A2SFError(
            f"{type(model).__name__} {differs}, so what a policy does to it could not be told; use a decoder-only "
            "model with plain full or sliding attention."
        )
    _tried.add(key)


def _difference(model: Any, attached: Callable[[], AbstractContextManager[Any]], n_tokens: int) -> str:
    """What differs, as the middle of a sentence; empty if nothing does."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    places = torch.arange(n_tokens, device=input_device(model))[None]
    ids = (5 + places * 7 % max(1, min(vocabulary, 1000) - 5)) % vocabulary  # [1, token]
    try:
        stock = _logits(model, ids)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
        return ""  # it wants more than tokens, which whoever uses it will give
    try:
        with attached():
            ours = _logits(model, ids)
    except A2SFError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:120].rstrip(".")
        return f"does not run when it is attached ({type(error).__name__}: {said})"
    if not bool(torch.isfinite(stock).all()):
        return ""  # said where it is used, with what to do
    off = float((stock - ours).abs().max() / stock.abs().max().clamp(min=1e-6))
    if off <= TOLERANCE.get(model.dtype, ROUGH):
        return ""
    return f"gives other logits when it is attached with its whole cache (by {off:.1%} on {n_tokens} tokens)"


def _logits(model: Any, ids: Tensor) -> Tensor:
    """float32 `[1, token, vocabulary]`."""
    return model(input_ids=ids, use_cache=True).logits.float()


def _length(model: Any) -> int:
    """Tokens that are more than the window, as far as the model goes."""
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    wanted = max(SHORT, (getattr(text, "sliding_window", None) or 0) + WINDOW)
    return min(wanted, longest) if isinstance(longest, int) and longest > 0 else wanted


@contextmanager
def _short_windows(model: Any) -> Iterator[bool]:
    """Make the sliding windows of the config and of the modules short; whether any were longer is what it yields."""
    text = model.config.get_text_config()
    holders: list[Any] = [text, *(module for module in model.modules() if isinstance(module, nn.Module))]
    before = [
        (holder, window)
        for holder in holders
        if isinstance(window := getattr(holder, "sliding_window", None), int) and window > WINDOW
    ]
    try:
        for holder, _ in before:
            holder.sliding_window = WINDOW
        yield bool(before)
    finally:
        for holder, window in before:
            holder.sliding_window = window
