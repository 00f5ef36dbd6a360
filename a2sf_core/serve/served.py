"""Which policy answers a request: the served one, a canary for a share of them, or the full cache with a shadow."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from a2sf_core.config import A2SFConfig
from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
_DIGITS = 12


@dataclass(frozen=True)
class Served:
    """A policy that requests are answered by.

    Attributes:
        policy: what their caches keep.
        role: what it is called in /metrics and to clients: "stable", "canary", or "shadow", where the full cache
            answers and the policy is measured beside it.
        version: of the config, from its content.

    Raises:
        A2SFError: for a shadow that evicts while the prompt is read.
    """

    policy: Policy
    role: str = STABLE
    version: str = "unnamed"

    def __post_init__(self) -> None:
        if self.role == SHADOW and self.policy.chunk is not None:
            raise A2SFError(
                f"a shadow reads each prompt once, for the full cache too, so its policy must evict after the prompt "
                f"and not {self.policy.evict!r}; set evict to 'prefill', or serve it as a canary."
            )

    @classmethod
    def of(cls, config: A2SFConfig, role: str = STABLE) -> Served:
        """The policy of a config; two configs of one content have one version."""
        content = json.dumps(config.to_dict(), sort_keys=True)
        return cls(config.policy, role, hashlib.sha256(content.encode()).hexdigest()[:_DIGITS])

    @property
    def is_shadow(self) -> bool:
        """Whether the full cache answers."""
        return self.role == SHADOW

    def __str__(self) -> str:
        """For clients."""
        return f"{self.role} {self.version}"


class Configs:
    """What is served now. A new config is for new requests; those that run keep the one that they began with."""

    def __init__(self, main: Served, canary: Served | None = None, share: float = 0.0) -> None:
        """`canary` answers about `share` of the requests, drawn one by one, and `main` the others."""
        self._now = {each.role: each for each in (main, canary) if each is not None}
        self._main, self._share = main.role, share

    @property
    def roles(self) -> tuple[str, ...]:
        """Of all that is served; they never change."""
        return tuple(self._now)

    def now(self, role: str) -> Served:
        """The one that has this role."""
        return self._now[role]

    def pick(self) -> Served:
        """For the next request."""
        is_canary = CANARY in self._now and random.random() < self._share
        return self._now[CANARY if is_canary else self._main]

    def replace(self, served: Served) -> None:
        """Serve this from now on in the place of the one that had its role."""
        self._now[served.role] = served
