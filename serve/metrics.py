"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Numbers"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SCORES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Numbers:
    """The numbers of one replica, in a registry of their own.

    Whoever asks through a proxy reaches any of the replicas, so each series says whose it is: otherwise counters would
    seem to fall.
    """

    def __init__(self, *, replica: str | None = None) -> None:
        """replica: the label `replica` of everything that is told; None: no such label."""
        self._replica = replica
        self._registry = CollectorRegistry()
        of: Any = {"registry": self._registry, "namespace": "ndd"}
        self._requests = Counter("requests", "Requests answered", ("route", "method", "status"), **of)
        self._seconds = Histogram("request_seconds", "Time to answer", ("route",), buckets=_SECONDS, **of)
        self._active = Gauge("requests_active", "Requests being worked on", **of)
        self._scores = Histogram("score", "Scores given", ("model",), buckets=_SCORES, **of)
        self._gap = Histogram("canary_gap", "|challenger − champion|", buckets=_SCORES, **of)
        self._events = Counter("events", "What happened, by name", ("event",), **of)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that is looked up when somebody asks."""
        Gauge(name, text, registry=self._registry, namespace="ndd").set_function(read)

    def begin(self) -> None:
        """A request came."""
        self._active.inc()

    def end(self, route: str, method: str, status: int, seconds: float) -> None:
        """It was answered."""
        self._active.dec()
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def score(self, value: float, *, model: str = "champion") -> None:
        """A score was given."""
        self._scores.labels(model).observe(value)

    def canary(self, champion: float, challenger: float) -> None:
        """Both models scored a pair."""
        self.score(challenger, model="challenger")
        self._gap.observe(abs(champion - challenger))

    def event(self, name: str) -> None:
        """Something happened: `reload`, `queued`, `migrated` …"""
        self._events.labels(name).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self)  # all that is asked of a registry is `collect`

    def collect(self) -> Iterator[Metric]:
        """Every metric, labelled."""
        for metric in self._registry.collect():
            if self._replica is not None:
                metric.samples = [s._replace(labels={**s.labels, "replica": self._replica}) for s in metric.samples]
            yield metric
