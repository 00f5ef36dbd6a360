"""What /metrics shows, with the official client for Prometheus. Numbers and configs only: nothing of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from a2sf_core.serve.served import Served

if TYPE_CHECKING:  # it brings torch, and configs are read before that
    from a2sf_core.serve.shadow import Compared

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_NATS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_OUTCOMES = ("loaded", "refused")


class Metrics:
    """Counters of one engine, in a registry of their own. The label `config` is the role of what answers."""

    def __init__(self, roles: Sequence[str]) -> None:
        """All at 0."""
        self.registry = CollectorRegistry()
        self._roles = tuple(roles)
        own: dict[str, Any] = {"registry": self.registry}
        by_config: dict[str, Any] = {"labelnames": ["config"], **own}
        self.requests = Counter("a2sf_requests", "Requests, by how they ended.", ["config", "outcome"], **own)
        self.refused = Counter("a2sf_refused", "Requests that were answered with an HTTP error.", ["status"], **own)
        self.prompt_tokens = Counter("a2sf_prompt_tokens", "Prompt tokens read.", **by_config)
        self.written_tokens = Counter("a2sf_written_tokens", "Tokens written.", **by_config)
        self.kept_tokens = Counter(
            "a2sf_cache_kept_tokens", "Tokens held at the end by the policy, mean of heads, summed.", **by_config
        )
        self.full_tokens = Counter("a2sf_cache_full_tokens", "The same without pruning.", **by_config)
        self.steps = Counter("a2sf_steps", "Decoding steps, each of which writes one token for every row.", **own)
        self.first_token = Histogram(
            "a2sf_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, **by_config
        )
        self.duration = Histogram("a2sf_request_seconds", "From a request to its end.", buckets=_SECONDS, **by_config)
        self.memory_limit = Gauge("a2sf_cache_limit_bytes", "Memory that caches may take; 0 for no limit.", **own)
        self.config = Gauge("a2sf_config_info", "What is served.", ["config", "version", "source"], **own)
        self.reloads = Counter("a2sf_config_reloads", "New configs while running.", ["config", "outcome"], **own)
        self._refused_config = Gauge(
            "a2sf_config_refused", "1 while what lies there is refused, and why.", ["config", "reason"], **own
        )
        self._shadow_tokens = Counter("a2sf_shadow_tokens", "Tokens that a shadow was compared on.", **own)
        self._shadow_agreed = Counter("a2sf_shadow_agreed_tokens", "Of these, where it has the same likeliest.", **own)
        self._shadow_nats = Histogram(
            "a2sf_shadow_kl_nats", "KL from the full cache to the shadow, a request's mean.", buckets=_NATS, **own
        )
        for role in self._roles:
            for each in (self.prompt_tokens, self.written_tokens, self.kept_tokens, self.full_tokens, self.duration):
                each.labels(role)
            for outcome in _OUTCOMES:
                self.reloads.labels(role, outcome)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for whenever somebody looks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch_configs(self, name: str, text: str, value: Callable[[str], float]) -> None:
        """A gauge for each config, given its role."""
        gauge = Gauge(name, text, ["config"], registry=self.registry)
        for role in self._roles:
            gauge.labels(role).set_function(partial(value, role))

    # ---- configs --------------------------------------------------------------------------------------------

    def serves(self, served: Served, source: str) -> None:
        """This is served from now on, in its role."""
        self.config.remove_by_labels({"config": served.role})
        self.config.labels(served.role, served.version, _shown(source)).set(1)

    def refuses(self, role: str, why: str) -> None:
        """A new config is refused."""
        self.no_longer_refused(role)
        self._refused_config.labels(role, _shown(why)).set(1)
        self.reloads.labels(role, "refused").inc()

    def no_longer_refused(self, role: str) -> None:
        """What lies there is served."""
        self._refused_config.remove_by_labels({"config": role})

    def compares(self, compared: Compared) -> None:
        """A request with a shadow has ended."""
        if compared.tokens:
            self._shadow_tokens.inc(compared.tokens)
            self._shadow_agreed.inc(compared.agreed)
            self._shadow_nats.observe(compared.nats / compared.tokens)


def _shown(text: str) -> str:
    """A path may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()
