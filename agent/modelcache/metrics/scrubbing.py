"""What is read back of the cache, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape
from modelcache.metrics.contract import scrubbing


class ScrubMetrics:
    """On the agent's registry. Safe for threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bytes = scrubbing.BYTES.register(registry)
        self._damaged = scrubbing.DAMAGED.register(registry)
        self._healed = scrubbing.HEALED.register(registry)
        self._oldest: float | None = None
        registry.register(AtScrape(self._collect))
        self._quarantined_files = scrubbing.QUARANTINED_FILES.register(registry)
        self._quarantined_bytes = scrubbing.QUARANTINED_BYTES.register(registry)

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
        self._oldest = at

    def quarantined(self, sizes: Collection[int]) -> None:
        """Note what is in quarantine, in bytes of each."""
        self._quarantined_files.set(len(sizes))
        self._quarantined_bytes.set(sum(sizes))

    def _collect(self) -> Iterable[Metric]:
        oldest = scrubbing.OLDEST_TIMESTAMP.collected()
        if self._oldest is not None:
            oldest.add_metric([], self._oldest)
        yield oldest
