"""Every metric, in one place.

Facts of the node (states, bytes, disk) are collected when they are scraped, from what the agent has
in memory; what happens is counted as it happens. Labels are bounded: `model` has the names of the
catalog and of the store, `origin` and `reason` are closed sets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from modelcache import __version__
from modelcache.api import ModelState, NodeCache
from modelcache.api.cachedmodel import NodeCounts
from modelcache.api.compilecache import CompileNodeCounts
from modelcache.errors import Reason
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    Event,
    FetchEnded,
    HostPaused,
    MirrorFailed,
    Retried,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

# From a small file on a fast network to hundreds of gigabytes on a slow one.
_FETCH_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
_REVIEW_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)


class Metrics:
    """The registry, and a listener that counts events. Safe for threads."""

    def __init__(self, node: Callable[[], NodeCache | None]) -> None:
        # Without it there is a second series for each, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_NodeCollector(node))
        self._received = Counter(
            "modelcache_received_bytes",
            "Bytes that came from origins.",
            ["origin"],
            registry=self.registry,
        )
        self._dropped = Counter(
            "modelcache_dropped_bytes",
            "Bytes that came and were thrown away, because their digest was wrong.",
            registry=self.registry,
        )
        self._retries = Counter(
            "modelcache_transfer_retries",
            "Failures in a transfer that were tried again.",
            ["origin", "reason"],
            registry=self.registry,
        )
        self._fetches = Counter(
            "modelcache_fetches",
            "Fetches of models that ended; reason is empty for those that succeeded.",
            ["origin", "reason"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "modelcache_fetch_seconds",
            "Time that a model's fetch took, from its start to its commit.",
            ["origin"],
            buckets=_FETCH_BUCKETS,
            registry=self.registry,
        )
        self._mirrored = Counter(
            "modelcache_mirrored_bytes",
            "Those of the received bytes that mirrors served in place of the origin.",
            ["origin"],
            registry=self.registry,
        )
        self._mirror_failures = Counter(
            "modelcache_mirror_failures",
            "Failures of mirrors, after which the origin was asked.",
            ["origin", "reason"],
            registry=self.registry,
        )
        self._pauses = Counter(
            "modelcache_origin_pauses",
            "Times that a host asked for fewer requests (429, 503) and was left alone for a while.",
            ["origin"],
            registry=self.registry,
        )
        self._spent = Counter(
            "modelcache_transfer_seconds",
            "Time of all connections: waiting for the origin, on the disk, on digests, held back by"
            " a bandwidth limit. Counted when a fetch ends.",
            ["origin", "activity"],
            registry=self.registry,
        )
        self._evictions = Counter(
            "modelcache_evictions",
            "What was evicted, by the rule: Unwanted, OldRevision or LowerPriority.",
            ["rule"],
            registry=self.registry,
        )
        self._evicted = Counter(
            "modelcache_evicted_bytes",
            "Bytes that evictions freed, by the rule.",
            ["rule"],
            registry=self.registry,
        )
        self._short = Gauge(
            "modelcache_disk_short_bytes",
            "Bytes that are missing for wanted models that don't fit, whatever goes that may.",
            registry=self.registry,
        )
        self._dropped.inc(0)

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

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class ControllerMetrics:
    """The controller's registry. Safe for threads."""

    def __init__(self, state: Callable[[], ControllerState]) -> None:
        """`state` gives what is scraped, at each scrape."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_ControllerCollector(state))
        self._writes = Counter(
            "modelcache_controller_writes",
            "Writes to the API server by their result: ok, conflict (tried again) or error.",
            ["resource", "result"],
            registry=self.registry,
        )
        self._taints = Counter(
            "modelcache_controller_startup_taints_removed",
            "Startup taints that were taken off nodes, because the models were ready or because"
            " the deadline had passed.",
            ["cause"],
            registry=self.registry,
        )

    def wrote(self, resource: str, result: Literal["ok", "conflict", "error"]) -> None:
        """Count a write."""
        self._writes.labels(resource, result).inc()

    def untainted(self, cause: str) -> None:
        """Count a startup taint."""
        self._taints.labels(cause).inc()

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class ScrubMetrics:
    """What is read back of the cache, and what comes of it. Safe for threads."""

    def __init__(
        self, registry: CollectorRegistry, quarantine: Callable[[], Iterable[int]]
    ) -> None:
        """`quarantine` gives the bytes of each blob in it, at each scrape."""
        self._bytes = Counter(
            "modelcache_scrubbed_bytes",
            "Bytes of the cache that were read back and compared with their digests.",
            registry=registry,
        )
        self._damaged = Counter(
            "modelcache_scrub_damaged_files",
            "Files that scrubbing found damaged; they were withdrawn.",
            registry=registry,
        )
        self._healed = Counter(
            "modelcache_healed_files",
            "Damaged files that are whole again.",
            registry=registry,
        )
        self._oldest = Gauge(
            "modelcache_scrub_oldest_timestamp_seconds",
            "When the file that waits for the longest was last known to be whole, in Unix time.",
            registry=registry,
        )
        registry.register(_QuarantineCollector(quarantine))

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


class _QuarantineCollector(Collector):
    def __init__(self, quarantine: Callable[[], Iterable[int]]) -> None:
        self._quarantine = quarantine

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        sizes = list(self._quarantine())
        yield GaugeMetricFamily(
            "modelcache_quarantined_files",
            "Damaged files that are kept aside.",
            value=float(len(sizes)),
        )
        yield GaugeMetricFamily(
            "modelcache_quarantined_bytes", "Bytes of disk that they have.", value=float(sum(sizes))
        )


class DiskMetrics:
    """How the cache's disk is."""

    def __init__(self, registry: CollectorRegistry, state: Callable[[], str]) -> None:
        """`state` gives ok, failing or down, at each scrape."""
        registry.register(_DiskStateCollector(state))


class _DiskStateCollector(Collector):
    def __init__(self, state: Callable[[], str]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        found = GaugeMetricFamily(
            "modelcache_disk_state",
            "1 for the state that the cache's disk is in: ok, failing or down.",
            labels=["state"],
        )
        now = self._state()
        for each in ("ok", "failing", "down"):
            found.add_metric([each], float(each == now))
        yield found


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What is true of the controller at one moment.

    Attributes:
        leading: whether it is the one that writes.
        objects: how many there are, by resource; those of a resource that can't be watched now
            are as they were last seen.
        failing: the resources that can't be watched now.
        models: how far the nodes are with each model; known to the one that leads.
        compile_caches: the same for compile caches.
    """

    leading: bool
    objects: Mapping[str, int]
    failing: Collection[str]
    models: Mapping[str, NodeCounts]
    compile_caches: Mapping[str, CompileNodeCounts] = field(default_factory=dict)


class _ControllerCollector(Collector):
    def __init__(self, state: Callable[[], ControllerState]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _build("The controller's version.")
        state = self._state()
        yield GaugeMetricFamily(
            "modelcache_controller_leading",
            "1 for the replica that writes.",
            value=float(state.leading),
        )
        objects = GaugeMetricFamily(
            "modelcache_controller_objects", "Objects that are watched.", labels=["resource"]
        )
        failing = GaugeMetricFamily(
            "modelcache_controller_watch_failing",
            "1 for a resource that can't be listed or watched now.",
            labels=["resource"],
        )
        for resource, number in state.objects.items():
            objects.add_metric([resource], number)
            failing.add_metric([resource], float(resource in state.failing))
        nodes = GaugeMetricFamily(
            "modelcache_model_nodes",
            "Nodes that are to hold a model (desired), and how far they are with it.",
            labels=["model", "state"],
        )
        for model, counts in state.models.items():
            for name, number in counts.model_dump().items():
                nodes.add_metric([model, name], number)
        compiled = GaugeMetricFamily(
            "modelcache_compile_cache_nodes",
            "Nodes that are to hold a compile cache (desired), and how far they are with it.",
            labels=["compile_cache", "state"],
        )
        for cache, far in state.compile_caches.items():
            for name, number in far.model_dump().items():
                compiled.add_metric([cache, name], number)
        yield from (objects, failing, nodes, compiled)


@dataclass(frozen=True, slots=True)
class WebhookState:
    """What is true of the webhook at one moment.

    Attributes:
        certificate_ends: when the certificate that is shown ends, in Unix time; None: there is
            none.
        objects: how many there are, by resource, as they were last seen.
        failing: the resources that can't be watched now.
    """

    certificate_ends: float | None
    objects: Mapping[str, int]
    failing: Collection[str]


class WebhookMetrics:
    """The webhook's registry. Safe for threads."""

    def __init__(self, state: Callable[[], WebhookState]) -> None:
        """`state` gives what is scraped, at each scrape."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_WebhookCollector(state))
        self._reviews = Counter(
            "modelcache_webhook_reviews",
            "Pods by what became of them: injected, unchanged or failed (created as they were).",
            ["outcome"],
            registry=self.registry,
        )
        self._warnings = Counter(
            "modelcache_webhook_warnings",
            "Warnings that were given to who created a pod.",
            registry=self.registry,
        )
        self._seconds = Histogram(
            "modelcache_webhook_review_seconds",
            "Time that an answer took. The API server waits for two seconds.",
            buckets=_REVIEW_BUCKETS,
            registry=self.registry,
        )

    def reviewed(self, outcome: str, warnings: int, seconds: float) -> None:
        """Count an answer."""
        self._reviews.labels(outcome).inc()
        self._warnings.inc(warnings)
        self._seconds.observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class _WebhookCollector(Collector):
    def __init__(self, state: Callable[[], WebhookState]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _build("The webhook's version.")
        state = self._state()
        if state.certificate_ends is not None:
            yield GaugeMetricFamily(
                "modelcache_webhook_certificate_expiry_timestamp_seconds",
                "When the certificate that is shown ends.",
                value=state.certificate_ends,
            )
        objects = GaugeMetricFamily(
            "modelcache_webhook_objects", "Objects that are watched.", labels=["resource"]
        )
        failing = GaugeMetricFamily(
            "modelcache_webhook_watch_failing",
            "1 for a resource that can't be listed or watched now.",
            labels=["resource"],
        )
        for resource, number in state.objects.items():
            objects.add_metric([resource], number)
            failing.add_metric([resource], float(resource in state.failing))
        yield from (objects, failing)


@dataclass(frozen=True, slots=True)
class TunedDevice:
    """A device whose read-ahead a rule is about.

    Attributes:
        name: the disk, or the mount's source.
        bdi: its name in sysfs.
        kib: what it has; None: it couldn't be read.
        wanted: KiB; None: it isn't known.
        failing: whether it can't be set.
    """

    name: str
    bdi: str
    kib: int | None
    wanted: int | None
    failing: bool


class TunerMetrics:
    """The tuner's registry. Safe for threads."""

    def __init__(self, devices: Callable[[], Iterable[TunedDevice]]) -> None:
        """`devices` gives what is scraped, at each scrape."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_TunerCollector(devices))
        self._changes = Counter(
            "modelcache_read_ahead_changes",
            "Values that were set: because a rule wants it (rule), or because somebody else had"
            " changed it (reset).",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("rule", "reset"):
            self._changes.labels(reason).inc(0)

    def changed(self, reason: Literal["rule", "reset"]) -> None:
        """Count a value that was set."""
        self._changes.labels(reason).inc()

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class _TunerCollector(Collector):
    def __init__(self, devices: Callable[[], Iterable[TunedDevice]]) -> None:
        self._devices = devices

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _build("The tuner's version.")
        labels = ["device", "bdi"]
        present = GaugeMetricFamily(
            "modelcache_read_ahead_kb", "Read-ahead of a device, in KiB.", labels=labels
        )
        wanted = GaugeMetricFamily(
            "modelcache_read_ahead_wanted_kb", "What it is to be, in KiB.", labels=labels
        )
        failing = GaugeMetricFamily(
            "modelcache_read_ahead_failing",
            "1 for a device whose read-ahead can't be set.",
            labels=labels,
        )
        for device in self._devices():
            names = [device.name, device.bdi]
            if device.kib is not None:
                present.add_metric(names, device.kib)
            if device.wanted is not None:
                wanted.add_metric(names, device.wanted)
            failing.add_metric(names, float(device.failing))
        yield from (present, wanted, failing)


def _build(what: str) -> Metric:
    build = InfoMetricFamily("modelcache_build", what)
    build.add_metric([], {"version": __version__})
    return build


class _NodeCollector(Collector):
    """Gauges that are derived from the node's report when they are scraped."""

    def __init__(self, node: Callable[[], NodeCache | None]) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _build("The agent's version.")
        node = self._node()
        if node is None or node.status is None:
            return
        yield from _models(node)
        yield from _disk(node)


def _models(node: NodeCache) -> Iterable[Metric]:
    assert node.status is not None
    state = GaugeMetricFamily(
        "modelcache_model_state", "1 for the state that a model is in.", labels=["model", "state"]
    )
    revision = InfoMetricFamily(
        "modelcache_model", "A model's revision and origin.", labels=["model"]
    )
    done = GaugeMetricFamily(
        "modelcache_model_done_bytes", "Bytes of a model on the disk.", labels=["model"]
    )
    total = GaugeMetricFamily(
        "modelcache_model_size_bytes", "Bytes of a model in all.", labels=["model"]
    )
    resident = GaugeMetricFamily(
        "modelcache_model_resident_bytes",
        "Bytes of a model's present revision that are in the page cache, in steps of 1 %.",
        labels=["model"],
    )
    failing = GaugeMetricFamily(
        "modelcache_model_failing",
        "1 for why a model's last try failed.",
        labels=["model", "reason"],
    )
    ready = GaugeMetricFamily(
        "modelcache_model_ready_timestamp_seconds",
        "When a model's present revision became ready.",
        labels=["model"],
    )
    for model in node.status.models:
        for each in ModelState:
            state.add_metric([model.name, each.value], float(model.state is each))
        done.add_metric([model.name], model.bytes_done)
        total.add_metric([model.name], model.bytes_total)
        if model.revision:
            scheme = (model.source or "").partition("://")[0]
            revision.add_metric([model.name], {"revision": model.revision, "origin": scheme})
        if model.resident_bytes is not None:
            resident.add_metric([model.name], model.resident_bytes)
        if model.reason:
            failing.add_metric([model.name, Reason(model.reason).value], 1)
        if model.finished_at:
            ready.add_metric([model.name], model.finished_at.timestamp())
    yield from (state, revision, done, total, resident, failing, ready)


def _disk(node: NodeCache) -> Iterable[Metric]:
    assert node.status is not None
    disk, catalog = node.status.disk, node.status.catalog
    for name, what, value in (
        ("disk_capacity_bytes", "Size of the cache's file system.", disk.capacity),
        ("disk_available_bytes", "Free for fetches, without what is kept free.", disk.available),
        ("disk_used_bytes", "Content of the models in the cache.", disk.used),
        ("disk_budget_bytes", "What the cache may take in all, as things are.", disk.budget),
        ("disk_taken_bytes", "What the cache takes of the disk in all.", disk.taken),
        ("disk_reserved_bytes", "Promised to fetches under way.", disk.reserved),
        ("catalog_objects", "Objects of the catalog in force.", catalog.objects),
        ("catalog_problems", "Things wrong with the catalog's documents.", catalog.problem_count),
    ):
        yield GaugeMetricFamily(f"modelcache_{name}", what, value=value)


@dataclass(frozen=True, slots=True)
class WarmModel:
    """One model that is to be in memory, in bytes. `missing`: what the budget lacks for it."""

    name: str
    size: int
    resident: int
    missing: int


@dataclass(frozen=True, slots=True)
class WarmerState:
    """What is true of the warmer at one moment; `budget` in bytes."""

    budget: int
    models: tuple[WarmModel, ...]


class WarmerMetrics:
    """The warmer's registry. Safe for threads."""

    def __init__(self, state: Callable[[], WarmerState | None]) -> None:
        """`state` gives what was last looked at, at each scrape; None: nothing yet."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(_WarmerCollector(state))
        self._read = Counter(
            "modelcache_warmer_read_bytes",
            "Bytes that were brought into the page cache.",
            registry=self.registry,
        )
        self._dropped = Counter(
            "modelcache_warmer_dropped_bytes",
            "Bytes that were dropped from the page cache: no longer asked for (unwanted), or to"
            " leave memory to others (memory).",
            ["cause"],
            registry=self.registry,
        )
        self._failures = Counter(
            "modelcache_warmer_failures",
            "Files that could not be read, looked at or dropped.",
            registry=self.registry,
        )

    def read(self, size: int) -> None:
        """Count what was read, in bytes."""
        self._read.inc(size)

    def dropped(self, cause: str, size: int) -> None:
        """Count what was dropped, in bytes."""
        self._dropped.labels(cause).inc(size)

    def failed(self) -> None:
        """Count a failure."""
        self._failures.inc()

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)


class _WarmerCollector(Collector):
    def __init__(self, state: Callable[[], WarmerState | None]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _build("The warmer's version.")
        state = self._state()
        if state is None:
            return
        yield GaugeMetricFamily(
            "modelcache_warmer_budget_bytes",
            "Bytes of models that may be kept in memory.",
            value=state.budget,
        )
        size = GaugeMetricFamily(
            "modelcache_warmer_model_size_bytes",
            "Bytes of a model that is to be in memory.",
            labels=["model"],
        )
        resident = GaugeMetricFamily(
            "modelcache_warmer_model_resident_bytes",
            "Bytes of such a model that are in the page cache.",
            labels=["model"],
        )
        missing = GaugeMetricFamily(
            "modelcache_warmer_model_missing_bytes",
            "Bytes by which the budget is too small for such a model; 0 where it fits.",
            labels=["model"],
        )
        for model in state.models:
            size.add_metric([model.name], model.size)
            resident.add_metric([model.name], model.resident)
            missing.add_metric([model.name], model.missing)
        yield from (size, resident, missing)
