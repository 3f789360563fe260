"""The agent's metrics: what it knows of its models and its disk, and what it fetches and evicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client.core import Metric

from modelcache.api import ModelState, NodeCache
from modelcache.api.nodecache import NodeCacheStatus
from modelcache.errors import Reason
from modelcache.metrics.collecting import AtScrape, ProgramMetrics
from modelcache.metrics.contract import agent, disk, models, transfers
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    Event,
    FetchEnded,
    HostPaused,
    MirrorFailed,
    Retried,
)


class Metrics(ProgramMetrics):
    """The agent's registry, and a listener that counts events. Safe for threads."""

    def __init__(self, node: Callable[[], NodeCache | None]) -> None:
        """`node` gives this node's report, at each scrape; None: nothing is known yet."""
        super().__init__()
        self.registry.register(AtScrape(partial(_of_node, node)))
        self._received = transfers.RECEIVED_BYTES.register(self.registry)
        self._mirrored = transfers.MIRRORED_BYTES.register(self.registry)
        self._dropped = transfers.DROPPED_BYTES.register(self.registry)
        self._fetches = transfers.FETCHES.register(self.registry)
        self._seconds = transfers.FETCH_SECONDS.register(self.registry)
        self._spent = transfers.SPENT_SECONDS.register(self.registry)
        self._retries = transfers.RETRIES.register(self.registry)
        self._mirror_failures = transfers.MIRROR_FAILURES.register(self.registry)
        self._pauses = transfers.PAUSES.register(self.registry)
        self._evictions = disk.EVICTIONS.register(self.registry)
        self._evicted = disk.EVICTED_BYTES.register(self.registry)
        self._short = disk.SHORT_BYTES.register(self.registry)

    def evicted(self, rule: str, freed: int) -> None:
        """Count an eviction; `freed` in bytes."""
        self._evictions.labels(rule).inc()
        self._evicted.labels(rule).inc(freed)

    def short(self, size: int) -> None:
        """So many bytes are missing."""
        self._short.set(size)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, BytesReceived):
            self._received.labels(event.origin).inc(event.size)
            if event.mirror is not None:
                self._mirrored.labels(event.origin).inc(event.size)
        elif isinstance(event, MirrorFailed):
            self._mirror_failures.labels(event.origin, event.reason.value).inc()
        elif isinstance(event, HostPaused):
            self._pauses.labels(event.origin).inc()
        elif isinstance(event, BytesDropped):
            self._dropped.inc(event.size)
        elif isinstance(event, Retried):
            self._retries.labels(event.origin, event.reason.value).inc()
        elif isinstance(event, FetchEnded):
            reason = event.reason.value if event.reason else ""
            self._fetches.labels(event.origin, reason).inc()
            for activity, seconds in event.times.by_activity.items():
                self._spent.labels(event.origin, activity).inc(seconds)
            if event.reason is None:
                self._seconds.labels(event.origin).observe(event.seconds)


def _of_node(node: Callable[[], NodeCache | None]) -> Iterable[Metric]:
    report = node()
    if report is not None and report.status is not None:
        yield from _models(report.status)
        yield from _disk(report.status)


def _models(status: NodeCacheStatus) -> Iterable[Metric]:
    state = models.STATE.collected()
    revision = models.INFO.collected()
    done, size = models.DONE_BYTES.collected(), models.SIZE_BYTES.collected()
    resident = models.RESIDENT_BYTES.collected()
    failing = models.FAILING.collected()
    ready = models.READY_TIMESTAMP.collected()
    for model in status.models:
        name = [model.name]
        for each in ModelState:
            state.add_metric([model.name, each.value], float(model.state is each))
        done.add_metric(name, model.bytes_done)
        size.add_metric(name, model.bytes_total)
        if model.revision:
            scheme = (model.source or "").partition("://")[0]
            revision.add_metric(name, {"revision": model.revision, "origin": scheme})
        if model.resident_bytes is not None:
            resident.add_metric(name, model.resident_bytes)
        if model.reason:
            failing.add_metric([model.name, Reason(model.reason).value], 1)
        if model.finished_at:
            ready.add_metric(name, model.finished_at.timestamp())
    yield from (state, revision, done, size, resident, failing, ready)


def _disk(status: NodeCacheStatus) -> Iterable[Metric]:
    yield disk.CAPACITY_BYTES.of(status.disk.capacity)
    yield disk.AVAILABLE_BYTES.of(status.disk.available)
    yield disk.USED_BYTES.of(status.disk.used)
    yield disk.BUDGET_BYTES.of(status.disk.budget)
    yield disk.TAKEN_BYTES.of(status.disk.taken)
    yield disk.RESERVED_BYTES.of(status.disk.reserved)
    yield agent.CATALOG_OBJECTS.of(status.catalog.objects)
    yield agent.CATALOG_PROBLEMS.of(status.catalog.problem_count)
