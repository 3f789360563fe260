"""What is read back of the cache, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape
from modelcache.metrics.contract import scrubbing


class ScrubMetrics:
    """On the agent's registry. Safe for threads."""

    def __init__(
        self, registry: CollectorRegistry, quarantine: Callable[[], Iterable[int]]
    ) -> None:
        """`quarantine` gives the bytes of each blob in it, at each scrape."""
        self._quarantine = quarantine
        self._bytes = scrubbing.BYTES.register(registry)
        self._damaged = scrubbing.DAMAGED.register(registry)
        self._healed = scrubbing.HEALED.register(registry)
        self._oldest = scrubbing.OLDEST_TIMESTAMP.register(registry)
        registry.register(AtScrape(self._collect))

    def read(self, size: int) -> None:
        """Count bytes."""
        self._bytes.inc(size)

    def damaged(self) -> None:
        """Count a file."""
        self._damaged.inc()

    def healed(self) -> None:
        """Count a file."""
        self._healed.inc()

    def oldest(self, at: float) -> None:
        """Note when the one that waits for the longest was whole, in seconds since the epoch."""
        self._oldest.set(at)

    def _collect(self) -> Iterable[Metric]:
        sizes = list(self._quarantine())
        yield scrubbing.QUARANTINED_FILES.of(float(len(sizes)))
        yield scrubbing.QUARANTINED_BYTES.of(float(sum(sizes)))
