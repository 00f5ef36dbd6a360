"""`generate` of a model folder that holds a2sf_config.json: what its custom_generate/generate.py calls."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from transformers.utils import cached_file

from a2sf_core import attention
from a2sf_core.config import FILE_NAME, A2SFConfig
from a2sf_core.errors import A2SFError

_ONE_AT_A_TIME = threading.Lock()  # a model is attached once, and transformers serve generates from several threads


def generate(*args: Any, model: Any, **kwargs: Any) -> Any:
    """`model.generate(*args, **kwargs)`, pruned by the policy that lies beside the weights.

    Raises:
        A2SFError: if there is no policy there, or it is for a model of another shape.
    """
    for ours in ("custom_generate", "trust_remote_code"):  # they have led here, and would again
        kwargs.pop(ours, None)
    whole = type(model).generate  # the instance's own is this function
    if model.config._attn_implementation == attention.NAME:  # attached by whoever calls, who wants another policy
        return whole(model, *args, **kwargs)
    policy = _policy_beside(model.config._name_or_path)
    with _ONE_AT_A_TIME, policy.attach(model):
        return whole(model, *args, **kwargs)


@cache
def _policy_beside(name: str) -> A2SFConfig:
    try:
        path = cached_file(name, FILE_NAME)
    except OSError as error:
        raise A2SFError(f"{name} has no {FILE_NAME}; export it again with a2sf-tune export.") from error
    assert path is not None
    return A2SFConfig.from_pretrained(path)
