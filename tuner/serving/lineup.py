"""Which configs a server begins with, and where each may come from again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from a2sf_core.config import A2SFConfig
from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from a2sf_core.serve.served import CANARY, SHADOW, STABLE, Configs, Served
from a2sf_core.serve.watch import Accept, ConfigFile, Source
from tuner.serving.aliased import Aliased
from tuner.tracking.registry import SCHEME


@dataclass(frozen=True)
class Lineup:
    """The configs of the command line, read and not yet held to a model.

    Attributes:
        sources, loaded: by role; without one that is stable or a shadow, the full cache is.
        share: of the requests, for the canary.
    """

    sources: Mapping[str, Source]
    loaded: Mapping[str, A2SFConfig]
    share: float

    @classmethod
    def of(cls, config: str | None, canary: str | None, share: float, is_shadow: bool, mlflow: str | None) -> Lineup:
        """Read what the options name; `mlflow` is where registered models are.

        Raises:
            A2SFError: if one cannot be read, or they do not go together.
        """
        if is_shadow and config is None:
            raise A2SFError("--shadow measures a config beside the full cache; give it with --config.")
        if is_shadow and canary is not None:
            raise A2SFError("--shadow answers from the full cache alone; leave --canary out, or --shadow.")
        given = {SHADOW if is_shadow else STABLE: config, CANARY: canary}
        sources = {role: _source(where, mlflow) for role, where in given.items() if where is not None}
        return cls(sources, {role: source.load() for role, source in sources.items()}, share)

    def configs(self, accept: Accept, full: Policy) -> Configs:
        """What is served first. Raises A2SFError if one is for another model."""
        served = {role: accept(config, role) for role, config in self.loaded.items()}
        main = served.get(STABLE) or served.get(SHADOW) or Served(full, version="full-cache")
        return Configs(main, served.get(CANARY), self.share)

    def __str__(self) -> str:
        """For the screen."""
        said = [f"{_HOW[role]} {_kept(config)}" for role, config in self.loaded.items()]
        if STABLE not in self.loaded:
            said.insert(0, "the whole cache is kept")
        if CANARY in self.loaded:
            said[-1] = f"{self.share:.0%} of requests {said[-1]}"
        return "; ".join(said)


def _source(where: str, mlflow: str | None) -> Source:
    return Aliased(where, mlflow) if where.startswith(SCHEME) else ConfigFile(Path(where))


_HOW = {STABLE: "pruned as", CANARY: "pruned as", SHADOW: "beside it is measured what is"}


def _kept(config: A2SFConfig) -> str:
    return f"tuned for {config.task}, {config.policy.cache_fraction(1000):.0%} of 1,000 tokens kept"
