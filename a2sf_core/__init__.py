"""A2SF: key-value cache pruning by attention scores with a forgetting factor (arXiv 2407.20485).

The public names are looked up on first use (PEP 562), so that `import a2sf_core` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2sf_core.config import A2SFConfig
    from a2sf_core.errors import A2SFError
    from a2sf_core.policy import LayerPolicy, Policy

__all__ = ["A2SFConfig", "A2SFError", "LayerPolicy", "Policy"]

_HOME = {
    "A2SFConfig": "a2sf_core.config",
    "A2SFError": "a2sf_core.errors",
    "LayerPolicy": "a2sf_core.policy",
    "Policy": "a2sf_core.policy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
