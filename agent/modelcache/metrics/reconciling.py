"""How the agent's reconciler is doing, and what it was told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape
from modelcache.metrics.contract import programs


class ReconcileMetrics:
    """On the agent's registry. Safe for threads."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        lag: Callable[[], float],
        unreadable: Callable[[], bool | None],
    ) -> None:
        """Both are asked at each scrape.

        Args:
            registry: the agent's.
            lag: seconds that the reconciler is late.
            unreadable: whether nothing of the catalog can be read; None: it was not tried yet.
        """
        self._lag = lag
        self._unreadable = unreadable
        self._seconds = programs.RECONCILE_SECONDS.register(registry)
        self._succeeded = programs.RECONCILE_LAST_SUCCESS.register(registry)
        self._succeeded.set_to_current_time()
        registry.register(AtScrape(self._collect))

    @contextmanager
    def round(self) -> Iterator[None]:
        """A round, as long as the block lasts."""
        began = time.monotonic()
        try:
            yield
            self._succeeded.set_to_current_time()
        finally:
            self._seconds.observe(time.monotonic() - began)

    def _collect(self) -> Iterable[Metric]:
        yield programs.RECONCILE_LAG.of(self._lag())
        unreadable = self._unreadable()
        if unreadable is not None:
            yield programs.CATALOG_UNREADABLE.of(float(unreadable))
