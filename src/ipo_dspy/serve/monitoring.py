"""Counts and durations of a server's requests, in the text format of Prometheus.

With several worker processes, each writes to files in the folder that `PROMETHEUS_MULTIPROC_DIR` names, and any of them
reports the sums of all.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that prometheus-client reads when it is imported."""
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Monitor:
    """The metrics of an application."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ipo_dspy_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ipo_dspy_request_seconds", "Duration of requests.", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._images = Counter("ipo_dspy_images", "Images by outcome.", ["outcome"], registry=registry)
        self._batches = Histogram(
            "ipo_dspy_batch_size", "Images in a pass of the image tower.", buckets=_SIZES, registry=registry
        )

    def note_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request; the endpoint is one of a fixed set, because each name is kept."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def note_images(self, encoded: int, unreadable: int) -> None:
        """Count images."""
        self._images.labels("encoded").inc(encoded)
        self._images.labels("unreadable").inc(unreadable)

    def note_batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return all metrics, of all worker processes."""
        if not os.environ.get(SHARED_FOLDER):
            return generate_latest(self._registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)
