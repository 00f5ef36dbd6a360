"""What /metrics shows, with the official client for Prometheus: numbers only, and nothing of an owner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.service.desk import Desk
from tuner.workers.jobs import STATES
from tuner.workers.leases import workers
from tuner.workers.words import STUDY, VALIDATION

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Figures of one service, in a registry of their own. `counted` puts an application behind the counters."""

    def __init__(self, desk: Desk) -> None:
        """All at 0; jobs and workers are counted whenever somebody looks."""
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("a2sf_service_requests", "Answers, by route and status.", ["route", "status"], **own)
        self._duration = Histogram(
            "a2sf_service_request_seconds", "From a request to the begin of its answer.", ["route"],
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self.registry.register(_Counted(desk))

    def counted(self, inner: ASGIApp) -> ASGIApp:
        """`inner`, with its answers counted."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.perf_counter()

            async def counting(message: Any) -> None:
                if message["type"] == "http.response.start":
                    # Routes by their pattern: a path would be as many rows as there are studies.
                    route = getattr(scope.get("route"), "path", "other")
                    self._requests.labels(route, str(message["status"])).inc()
                    self._duration.labels(route).observe(time.perf_counter() - began)
                await send(message)

            await inner(scope, receive, counting)

        return application


class _Counted(Collector):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        counts = self._desk.jobs.counts()
        jobs = GaugeMetricFamily("a2sf_service_jobs", "Studies and validations, by state.", labels=["kind", "state"])
        for kind in (STUDY, VALIDATION):
            for state in STATES:
                jobs.add_metric([kind, state], counts.get((kind, state), 0))
        yield jobs
        alive, busy = workers(self._desk.database)
        team = GaugeMetricFamily("a2sf_service_workers", "Workers that live.", labels=["state"])
        team.add_metric(["busy"], busy)
        team.add_metric(["idle"], alive - busy)
        yield team
        yield GaugeMetricFamily("a2sf_service_free_bytes", "Of the disk of the data folder.", self._desk.places.free)
