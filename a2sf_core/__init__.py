"""A2SF: key-value cache pruning by attention scores with a forgetting factor (arXiv 2407.20485).

The public names are looked up on first use (PEP 562), so that `import a2sf_core` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2sf_core.cache import A2SFCache
    from a2sf_core.config import A2SFConfig
    from a2sf_core.context import read_context
    from a2sf_core.decoder import decode
    from a2sf_core.errors import A2SFError
    from a2sf_core.layer_policy import LayerPolicy
    from a2sf_core.policy import Policy
    from a2sf_core.switch import attach
    from a2sf_core.version import __version__

__all__ = ["A2SFCache", "A2SFConfig", "A2SFError", "LayerPolicy", "Policy", "__version__", "attach", "decode",
           "read_context"]  # fmt: skip

_HOME = {
    "A2SFCache": "a2sf_core.cache",
    "A2SFConfig": "a2sf_core.config",
    "A2SFError": "a2sf_core.errors",
    "LayerPolicy": "a2sf_core.layer_policy",
    "Policy": "a2sf_core.policy",
    "__version__": "a2sf_core.version",
    "attach": "a2sf_core.switch",
    "decode": "a2sf_core.decoder",
    "read_context": "a2sf_core.context",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
