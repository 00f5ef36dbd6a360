"""A2SF's tuner: finds, proves and exports a key-value cache pruning policy for a model and a task.

    from tuner import Settings, tune
    result = tune(Settings("summarisation", trials=100))

The names are looked up on first use (PEP 562), so that `import tuner` stays free of torch, Optuna and MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2sf_core.version import __version__
    from tuner.alpha.advice import suggest_alpha
    from tuner.run import tune
    from tuner.settings import Settings


__all__ = ["Settings", "__version__", "suggest_alpha", "tune"]

_HOME = {
    "Settings": "tuner.settings",
    "__version__": "a2sf_core.version",
    "suggest_alpha": "tuner.alpha.advice",
    "tune": "tuner.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
