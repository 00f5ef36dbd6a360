"""What /metrics shows, with the official client for Prometheus. Numbers only: nothing of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """Counters of one engine, in a registry of their own."""

    def __init__(self) -> None:
        """All at 0."""
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("a2sf_requests", "Requests, by how they ended.", ["outcome"], **own)
        self.refused = Counter("a2sf_refused", "Requests that were answered with an HTTP error.", ["status"], **own)
        self.prompt_tokens = Counter("a2sf_prompt_tokens", "Prompt tokens read.", **own)
        self.written_tokens = Counter("a2sf_written_tokens", "Tokens written.", **own)
        self.kept_tokens = Counter("a2sf_cache_kept_tokens", "Tokens held at the end, mean of heads, summed.", **own)
        self.full_tokens = Counter("a2sf_cache_full_tokens", "The same without pruning.", **own)
        self.steps = Counter("a2sf_steps", "Decoding steps, each of which writes one token for every row.", **own)
        self.first_token = Histogram(
            "a2sf_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, **own
        )
        self.duration = Histogram("a2sf_request_seconds", "From a request to its end.", buckets=_SECONDS, **own)
        self.memory_limit = Gauge("a2sf_cache_limit_bytes", "Memory that caches may take; 0 for no limit.", **own)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for whenever somebody looks."""
        Gauge(name, text, registry=self.registry).set_function(value)
