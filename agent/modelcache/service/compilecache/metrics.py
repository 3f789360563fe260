"""The metrics of compile caches, on the agent's registry. Labels are bounded: names of the catalog,
and closed sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.compilecache.engines.judging import MissReason
from modelcache.compilecache.pods.protocol import StartDocument

_REASONS: Final = frozenset(reason.value for reason in MissReason)
_OTHER: Final = "Other"


class CompileMetrics:
    """Counts starts, and tells of what is here when it is asked. Safe for threads."""

    def __init__(
        self, registry: CollectorRegistry, reports: Callable[[], tuple[CompileReport, ...]]
    ) -> None:
        registry.register(_Reports(reports))
        self._starts = Counter(
            "modelcache_compile_starts",
            "Starts of engines on this node, by how the compile cache helped (Hit, Partial, Miss,"
            " Unknown), and for those that were no hit the likely reason.",
            ["compile_cache", "result", "reason"],
            registry=registry,
        )
        self._compiled = Counter(
            "modelcache_compile_seconds",
            "Seconds that engines on this node compiled at their starts, as far as they said it.",
            ["compile_cache"],
            registry=registry,
        )
        self._saved = Counter(
            "modelcache_compile_seconds_saved",
            "Seconds of compiling that starts were spared: what the start compiled that the bundle"
            " was captured from, less what this one did.",
            ["compile_cache"],
            registry=registry,
        )
        self._received = Counter(
            "modelcache_compile_received_bytes",
            "Bytes of bundles that pods of this node brought.",
            ["compile_cache"],
            registry=registry,
        )
        self._refused = Counter(
            "modelcache_compile_refused",
            "Requests of pods that were refused, by why.",
            ["reason"],
            registry=registry,
        )

    def started(self, name: str, start: StartDocument, cold_seconds: float | None) -> None:
        """A start was reported. `cold_seconds`: of the start that its bundle is from."""
        reason = start.reason or ""
        if reason and reason not in _REASONS:
            reason = _OTHER  # a newer sidecar's
        self._starts.labels(name, start.result, reason).inc()
        if start.compile_milliseconds is None:
            return
        seconds = start.compile_milliseconds / 1000
        self._compiled.labels(name).inc(seconds)
        if cold_seconds is not None and start.result in ("Hit", "Partial"):
            self._saved.labels(name).inc(max(0.0, cold_seconds - seconds))

    def received(self, name: str, size: int) -> None:
        """A bundle was taken."""
        self._received.labels(name).inc(size)

    def refused(self, reason: str) -> None:
        """A request was refused; `reason` is one of this program's own words."""
        self._refused.labels(reason).inc()


class _Reports(Collector):
    def __init__(self, reports: Callable[[], tuple[CompileReport, ...]]) -> None:
        self._reports = reports

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "modelcache_compile_cache_state",
            "1 for the state that a compile cache is in on this node.",
            labels=["compile_cache", "state"],
        )
        size = GaugeMetricFamily(
            "modelcache_compile_cache_bytes",
            "Size of the bundle that starts are seeded from.",
            labels=["compile_cache"],
        )
        verified = GaugeMetricFamily(
            "modelcache_compile_cache_verified",
            "1 where a start on this node has loaded that bundle.",
            labels=["compile_cache"],
        )
        attempts = GaugeMetricFamily(
            "modelcache_compile_cache_attempts",
            "Failed tries in a row.",
            labels=["compile_cache"],
        )
        for report in self._reports():
            for each in CompileState:
                state.add_metric([report.name, each.value], float(report.state is each))
            size.add_metric([report.name], report.bytes)
            verified.add_metric([report.name], float(report.verified))
            attempts.add_metric([report.name], report.attempts)
        yield from (state, size, verified, attempts)
