"""How the cache's disk is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape
from modelcache.metrics.contract import disk
from modelcache.store.sickness import DiskState


class DiskMetrics:
    """How the cache's disk is, on the agent's registry."""

    def __init__(self, registry: CollectorRegistry, state: Callable[[], DiskState]) -> None:
        """`state` is asked at each scrape."""
        self._state = state
        registry.register(AtScrape(self._collect))

    def _collect(self) -> Iterable[Metric]:
        found, now = disk.STATE.collected(), self._state()
        for each in DiskState:
            found.add_metric([each.value], float(each is now))
        yield found
