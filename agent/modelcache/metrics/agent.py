"""The agent's metrics: what it knows of its models and its disk, and what it fetches and evicts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from modelcache.api import Manifest, ModelReport, ModelState, NodeCache
from modelcache.api.nodecache import NodeCacheStatus
from modelcache.errors import Reason
from modelcache.metrics.collecting import AtScrape, ClusterProgramMetrics
from modelcache.metrics.contract import disk, models, programs, transfers
from modelcache.metrics.contract.labels import STATUS
from modelcache.metrics.lasting import Lasting
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    Event,
    FetchEnded,
    HostPaused,
    MirrorFailed,
    Retried,
)


class Metrics(ClusterProgramMetrics):
    """The agent's registry, and a listener that counts events. Safe for threads."""

    def __init__(
        self,
        node: Callable[[], NodeCache | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`node` gives this node's report, at each scrape; None: nothing is known yet. `clock`
        gives seconds."""
        super().__init__()
        self._node = node
        self.registry.register(AtScrape(self._collect))
        self._received = transfers.RECEIVED_BYTES.register(self.registry)
        self._mirrored = transfers.MIRRORED_BYTES.register(self.registry)
        self._dropped = transfers.DROPPED_BYTES.register(self.registry)
        self._fetches = transfers.FETCHES.register(self.registry)
        self._seconds = transfers.FETCH_SECONDS.register(self.registry)
        self._spent = transfers.SPENT_SECONDS.register(self.registry)
        self._retries = transfers.RETRIES.register(self.registry)
        self._mirror_failures = transfers.MIRROR_FAILURES.register(self.registry)
        self._verified = transfers.VERIFICATION_SECONDS.register(self.registry)
        self._to_ready = transfers.TIME_TO_READY.register(self.registry)
        self._succeeded = transfers.LAST_SUCCESS_TIMESTAMP.register(self.registry)
        self._pauses = transfers.PAUSES.register(self.registry)
        self._evictions = disk.EVICTIONS.register(self.registry)
        self._evicted = disk.EVICTED_BYTES.register(self.registry)
        self._regretted = disk.REGRETTED.register(self.registry)
        self._short = disk.SHORT_BYTES.register(self.registry)
        disk.EVICTIONS.begin(self._evictions)
        disk.EVICTED_BYTES.begin(self._evicted)
        disk.REGRETTED.begin(self._regretted)
        self._mutex = threading.Lock()
        self._uses: dict[str, _Uses] = {}
        self._used = Lasting(clock=clock)

    def origins(self, schemes: Iterable[str]) -> None:
        """Models of these origins are wanted: what happens with them is counted from nought."""
        for scheme in schemes:
            transfers.RECEIVED_BYTES.begin(self._received, origin=scheme)
            transfers.MIRRORED_BYTES.begin(self._mirrored, origin=scheme)
            transfers.FETCHES.begin(self._fetches, origin=scheme)
            transfers.SPENT_SECONDS.begin(self._spent, origin=scheme)
            transfers.RETRIES.begin(self._retries, origin=scheme)
            transfers.MIRROR_FAILURES.begin(self._mirror_failures, origin=scheme)
            transfers.PAUSES.begin(self._pauses, origin=scheme)
            transfers.FETCH_SECONDS.begin(self._seconds, origin=scheme)
            transfers.VERIFICATION_SECONDS.begin(self._verified, origin=scheme)
            transfers.TIME_TO_READY.begin(self._to_ready, origin=scheme)

    def remember(self, models: Iterable[ModelReport]) -> None:
        """Take from an earlier report when fetches last ended well."""
        last: dict[str, float] = {}
        for model in models:
            if model.finished_at is not None and model.source is not None:
                scheme = _scheme(model)
                last[scheme] = max(last.get(scheme, 0.0), model.finished_at.timestamp())
        for scheme, at in last.items():
            self._succeeded.labels(scheme).set(at)

    def ready(self, model: ModelReport, seconds: float) -> None:
        """A model is ready that was missing for so many seconds."""
        self._to_ready.labels(_scheme(model)).observe(seconds)

    def evicted(self, rule: str, freed: int) -> None:
        """Count an eviction; `freed` in bytes."""
        self._evictions.labels(rule).inc()
        self._evicted.labels(rule).inc(freed)

    def regretted(self, rule: str) -> None:
        """Count an eviction of what was fetched again."""
        self._regretted.labels(rule).inc()

    def used(self, model: Manifest, seconds: float) -> None:
        """Somebody began to use a model, whose fetch had taken so many seconds."""
        report = self._node()
        status = report.status if report is not None else None
        here = [each.name for each in status.models] if status is not None else []
        with self._mutex:
            # Here as well: it may be that nobody scrapes.
            self._see([model.model, *here])
            before = self._uses[model.model]
            self._uses[model.model] = _Uses(
                before.times + 1, before.bytes + model.size, before.seconds + seconds
            )

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
            self._pauses.labels(event.origin, STATUS.of(str(event.status))).inc()
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
                self._verified.labels(event.origin).observe(event.times.hash)
                # As it is told after a restart, when only the report still knows of it.
                at = time.time() if event.at is None else event.at
                self._succeeded.labels(event.origin).set(at)

    def _collect(self) -> Iterable[Metric]:
        report = self._node()
        if report is not None and report.status is not None:
            yield from _models(report.status)
            yield from _use(report.status, time.time())
            with self._mutex:
                self._see(model.name for model in report.status.models)
                uses = dict(self._uses)
            yield from _saved(uses)
            yield from _disk(report.status)

    def _see(self, here: Iterable[str]) -> None:
        new, over = self._used.see(here)
        for name in over:
            del self._uses[name]
        for name in new:
            self._uses[name] = _NO_USES


@dataclass(frozen=True, slots=True)
class _Uses:
    """How often a model was used, and what that spared: bytes, and seconds."""

    times: int = 0
    bytes: int = 0
    seconds: float = 0.0


_NO_USES: Final = _Uses()


def _models(status: NodeCacheStatus) -> Iterable[Metric]:
    state, wanted = models.STATE.collected(), models.WANTED.collected()
    wanted_since = models.WANTED_TIMESTAMP.collected()
    missing_since = models.MISSING_TIMESTAMP.collected()
    revision = models.INFO.collected()
    done, size = models.DONE_BYTES.collected(), models.SIZE_BYTES.collected()
    failing, attempts = models.FAILING.collected(), models.FAILED_ATTEMPTS.collected()
    ready = models.READY_TIMESTAMP.collected()
    for model in status.models:
        name = [model.name]
        for each in ModelState:
            state.add_metric([model.name, each.value], float(model.state is each))
        wanted.add_metric(name, float(model.wanted))
        if model.wanted_since:
            wanted_since.add_metric(name, model.wanted_since.timestamp())
        if model.missing_since:
            missing_since.add_metric(name, model.missing_since.timestamp())
        done.add_metric(name, model.bytes_done)
        size.add_metric(name, model.bytes_total)
        if model.revision:
            revision.add_metric(name, {"revision": model.revision, "origin": _scheme(model)})
        if model.reason:
            failing.add_metric([model.name, Reason(model.reason).value], 1)
        attempts.add_metric(name, model.attempts)
        if model.finished_at:
            ready.add_metric(name, model.finished_at.timestamp())
    yield from (state, wanted, wanted_since, missing_since, revision, done, size)
    yield from (failing, attempts, ready)


def _use(status: NodeCacheStatus, now: float) -> Iterable[Metric]:
    resident, ratio = models.RESIDENT_BYTES.collected(), models.RESIDENT_RATIO.collected()
    users, last_used = models.USERS.collected(), models.LAST_USED_TIMESTAMP.collected()
    for model in status.models:
        name = [model.name]
        if model.resident_bytes is not None:
            resident.add_metric(name, model.resident_bytes)
            if model.state is ModelState.READY and model.bytes_total:
                ratio.add_metric(name, min(1.0, model.resident_bytes / model.bytes_total))
        if model.state is ModelState.READY:
            users.add_metric(name, model.used_by or 0)
        if model.used_by:
            last_used.add_metric(name, now)
        elif model.last_used_at:
            last_used.add_metric(name, model.last_used_at.timestamp())
    yield from (resident, ratio, users, last_used)


def _saved(uses: Mapping[str, _Uses]) -> Iterable[Metric]:
    times, served = models.USES.collected(), models.SERVED_BYTES.collected()
    saved = models.SAVED_SECONDS.collected()
    for model, found in uses.items():
        times.add_metric([model], found.times)
        served.add_metric([model], found.bytes)
        saved.add_metric([model], found.seconds)
    yield from (times, served, saved)


def _scheme(model: ModelReport) -> str:
    return (model.source or "").partition("://")[0]


def _disk(status: NodeCacheStatus) -> Iterable[Metric]:
    yield disk.CAPACITY_BYTES.of(status.disk.capacity)
    yield disk.FREE_BYTES.of(status.disk.free)
    yield disk.AVAILABLE_BYTES.of(status.disk.available)
    yield disk.USED_BYTES.of(status.disk.used)
    yield disk.BUDGET_BYTES.of(status.disk.budget)
    yield disk.TAKEN_BYTES.of(status.disk.taken)
    yield disk.RESERVED_BYTES.of(status.disk.reserved)
    if status.disk.inodes is not None:
        yield disk.INODES.of(status.disk.inodes)
    if status.disk.inodes_free is not None:
        yield disk.INODES_FREE.of(status.disk.inodes_free)
    yield programs.CATALOG_OBJECTS.of(status.catalog.objects)
    yield programs.CATALOG_PROBLEMS.of(status.catalog.problem_count)
