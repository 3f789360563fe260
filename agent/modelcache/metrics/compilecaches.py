"""The metrics of compile caches, on the agent's registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.compilecache.pods.protocol import StartDocument
from modelcache.metrics.collecting import AtScrape
from modelcache.metrics.contract import compilecaches
from modelcache.metrics.contract.labels import COMPILE_CACHE, MISS, REFUSAL
from modelcache.metrics.lasting import Lasting

_BY_REASON: Final = (("Partial", MISS.values or ()), ("Miss", MISS.values or ()))


class CompileMetrics:
    """Counts starts, and tells of what is here when it is asked. Safe for threads."""

    def __init__(
        self,
        registry: CollectorRegistry,
        reports: Callable[[], tuple[CompileReport, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reports` gives what is said of each; `clock` gives seconds."""
        self._reports = reports
        self._mutex = threading.Lock()
        self._lasting = Lasting(clock=clock)
        registry.register(AtScrape(self._collect))
        self._starts = compilecaches.STARTS.register(registry)
        self._compiled = compilecaches.SECONDS.register(registry)
        self._saved = compilecaches.SECONDS_SAVED.register(registry)
        self._received = compilecaches.RECEIVED_BYTES.register(registry)
        self._refused = compilecaches.REFUSED.register(registry)
        compilecaches.REFUSED.begin(self._refused)

    def started(self, name: str, start: StartDocument, cold_seconds: float | None) -> None:
        """A start was reported. `cold_seconds`: of the start that its bundle is from."""
        self._see(self._reports(), name)
        # A newer sidecar may know other reasons.
        self._starts.labels(name, start.result, MISS.of(start.reason or "")).inc()
        if start.compile_milliseconds is None:
            return
        seconds = start.compile_milliseconds / 1000
        self._compiled.labels(name).inc(seconds)
        if cold_seconds is not None and start.result in ("Hit", "Partial"):
            self._saved.labels(name).inc(max(0.0, cold_seconds - seconds))

    def received(self, name: str, size: int) -> None:
        """A bundle was taken."""
        self._see(self._reports(), name)
        self._received.labels(name).inc(size)

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one of this program's own words."""
        self._refused.labels(REFUSAL.of(reason)).inc()

    def _see(self, reports: tuple[CompileReport, ...], *names: str) -> None:
        """Begin the counters of what is new, and end those of what has been gone for long."""
        with self._mutex:
            new, over = self._lasting.see([*(report.name for report in reports), *names])
            for name in over:
                for counter in (self._starts, self._compiled, self._saved, self._received):
                    counter.remove_by_labels({COMPILE_CACHE.name: name})
            for name in new:
                self._begin(name)

    def _begin(self, name: str) -> None:
        """Have a cache's counters at nought, before its first start."""
        for result, reasons in (("Hit", ("",)), ("Unknown", ("",)), *_BY_REASON):
            for reason in reasons:
                self._starts.labels(name, result, reason)
        for family, counter in (
            (compilecaches.SECONDS, self._compiled),
            (compilecaches.SECONDS_SAVED, self._saved),
            (compilecaches.RECEIVED_BYTES, self._received),
        ):
            family.begin(counter, compile_cache=name)

    def _collect(self) -> Iterable[Metric]:
        state, size = compilecaches.STATE.collected(), compilecaches.BYTES.collected()
        verified = compilecaches.VERIFIED.collected()
        attempts = compilecaches.ATTEMPTS.collected()
        reports = self._reports()
        self._see(reports)
        for report in reports:
            for each in CompileState:
                state.add_metric([report.name, each.value], float(report.state is each))
            size.add_metric([report.name], report.bytes)
            verified.add_metric([report.name], float(report.verified))
            attempts.add_metric([report.name], report.attempts)
        yield from (state, size, verified, attempts)
