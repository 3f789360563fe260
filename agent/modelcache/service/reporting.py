"""What the node reports: a NodeCache, written to `node.json` and served at `/v1/node`.

All of it is derived from the store and the catalog, so a restart reports the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

import structlog

from modelcache import __version__
from modelcache.api import (
    Condition,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.nodecache import CompileReport, NodeMeta
from modelcache.catalog import Catalog
from modelcache.errors import ModelCacheError, Reason
from modelcache.planning.labelling import compile_labels, labels, unlabelled
from modelcache.store import DiskSpace, Layout, Store
from modelcache.store.durable import Durable
from modelcache.store.notes import read_note
from modelcache.store.sickness import WELL, DiskState, Health

log = structlog.get_logger(__name__)

READY_CONDITION = "ModelCacheReady"
DISK_CONDITION = "ModelCacheDiskHealthy"
_WRITE_SECONDS = 1.0
_MOST_BYTES = 16 * 1024 * 1024


def read_node_report(layout: Layout) -> NodeCache | None:
    """The report that an agent last wrote to the root; None when there is none to be read."""
    try:
        return NodeCache.model_validate_json(read_note(layout.node_report, _MOST_BYTES))
    except (OSError, ValueError):
        return None


def is_unreadable(catalog: Catalog) -> bool:
    """Whether nothing that was written is in force."""
    return not catalog.complete and not catalog.documents


def not_shown(reports: Sequence[ModelReport], health: Health) -> tuple[ModelReport, ...]:
    """What is to be said of models whose disk is down: none is ready."""
    why = {"state": ModelState.FAILED, "reason": Reason.DISK_FAILED, "message": health.message}
    return tuple(
        report.model_copy(update=why) if report.state is ModelState.READY else report
        for report in reports
    )


def disk_condition(health: Health, before: Condition | None, now: datetime) -> Condition:
    """Whether the disk is well."""
    status: Literal["True", "False"] = "True" if health.state is DiskState.OK else "False"
    same = before is not None and before.status == status
    return Condition(
        type=DISK_CONDITION,
        status=status,
        reason=health.reason,
        message=health.message,
        last_transition_time=before.last_transition_time if before and same else now,
    )


def ready_condition(
    reports: Sequence[ModelReport], catalog: Catalog, before: Condition | None, now: datetime
) -> Condition:
    """Whether all that the node is to hold is there. Unknown when the catalog can't be read."""
    wanted = [report for report in reports if report.wanted]
    missing = [report for report in wanted if report.state is not ModelState.READY]
    failed = [report for report in missing if report.attempts]
    status: Literal["True", "False", "Unknown"]
    message = f"{len(wanted) - len(missing)} of {len(wanted)} models are ready"
    if missing:
        down = any(report.reason is Reason.DISK_FAILED for report in missing)
        status, reason = "False", "ModelsFailing" if failed or down else "ModelsPending"
        message += "; " + "; ".join(f"{r.name}: {r.reason or r.state}" for r in missing[:5])
    elif is_unreadable(catalog):
        status, reason = "Unknown", "CatalogUnreadable"
        message = f"nothing of the catalog can be read: {catalog.problems[0]}"
    else:
        status, reason = "True", "AllReady"
    same = before is not None and before.status == status
    return Condition(
        type=READY_CONDITION,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before and same else now,
    )


class Reporter:
    """Writes the report when it changes, at most once a second. `cycle` is a task's."""

    def __init__(
        self,
        *,
        store: Store,
        node_name: str,
        reports: Callable[[], tuple[ModelReport, ...] | None],
        catalog: Callable[[], Catalog | None],
        used: Callable[[], int],
        max_labels: int,
        boot_id: str = "",
        compile_caches: Callable[[], tuple[CompileReport, ...]] = lambda: (),
        disk: Callable[[], Health] = lambda: WELL,
        on_error: Callable[[BaseException], None] = lambda _: None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """`reports` and `catalog` give None as long as nothing is known: nothing is reported.

        `disk` says how the disk is; `on_error` is told what keeps the report from being written;
        `on_news` is called when there is a report that is new.
        """
        self._store = store
        self._durable = Durable(store.layout.scratch)
        self._node_name = node_name
        self._reports = reports
        self._catalog = catalog
        self._used = used
        self._max_labels = max_labels
        self._compile_caches = compile_caches
        self._disk = disk
        self._on_error = on_error
        self._boot_id = boot_id
        self._on_news = on_news
        self._mutex = threading.Lock()
        self._written: NodeCacheStatus | None = None
        self._told: NodeCacheStatus | None = None
        self._complaint = ""
        before = read_node_report(store.layout)
        conditions = before.status.conditions if before and before.status else ()
        self._condition = next((c for c in conditions if c.type == READY_CONDITION), None)
        self._disk_condition = next((c for c in conditions if c.type == DISK_CONDITION), None)
        self._ready_in_boot = before.status.ready_in_boot if before and before.status else None
        self._latest: NodeCache | None = None
        self._latest_at = float("-inf")
        self._space: DiskSpace | None = None

    @property
    def latest(self) -> NodeCache | None:
        """The report of the last cycle; None before there was one."""
        return self._latest

    @property
    def latest_at(self) -> float:
        """When the report of the last cycle was made, in seconds of `time.monotonic`."""
        return self._latest_at

    def known(self) -> NodeCache | None:
        """The report as of now, with the disk as it was last seen: nothing is looked at. None as
        long as nothing is known."""
        return None if self._space is None else self._report(lambda _: self._space or _NO_SPACE)

    def current(self) -> NodeCache | None:
        """The report as of now; None as long as nothing is known."""
        return self._report(self._measured)

    def _report(self, measured: Callable[[bool], DiskSpace]) -> NodeCache | None:
        """`measured` is asked with whether the disk is down."""
        reports, catalog = self._reports(), self._catalog()
        if reports is None or catalog is None:
            return None
        compiled, health = self._compile_caches(), self._disk()
        down = health.state is DiskState.DOWN
        if down:
            reports = not_shown(reports, health)
        space = measured(down)
        now = datetime.now(UTC).replace(microsecond=0)
        with self._mutex:
            self._condition = ready_condition(reports, catalog, self._condition, now)
            condition = self._condition
            self._disk_condition = disk_condition(health, self._disk_condition, now)
            of_the_disk = self._disk_condition
            if condition.status == "True":
                self._ready_in_boot = self._boot_id or None
            ready_in_boot = self._ready_in_boot
        return NodeCache(
            metadata=NodeMeta(name=self._node_name),
            status=NodeCacheStatus(
                agent_version=__version__,
                root=str(self._store.layout.root),
                labels={
                    **labels(reports, self._max_labels),
                    **compile_labels(() if down else compiled, self._max_labels),
                },
                unlabelled=unlabelled(reports, self._max_labels),
                ready_in_boot=ready_in_boot,
                models=reports,
                compile_caches=compiled,
                disk=DiskReport(
                    capacity=space.capacity,
                    available=space.available,
                    used=self._used(),
                    reserved=space.reserved,
                    taken=space.used,
                    budget=space.budget,
                    kept_free=space.kept_free,
                    free=space.free,
                    inodes=space.inodes,
                    inodes_free=space.inodes_free,
                ),
                catalog=catalog.report(),
                conditions=(condition, of_the_disk),
            ),
        )

    def _measured(self, down: bool) -> DiskSpace:
        """The disk's space; while it is down, as it was last seen."""
        if not down:
            try:
                self._space = self._store.space.measure()
            except OSError as error:
                self._on_error(error)
        self._space = self._space or _NO_SPACE
        return self._space

    def cycle(self) -> float:
        """Write the report if it has changed."""
        report = self.current()
        if report is None or report.status is None:
            return _WRITE_SECONDS
        self._latest, self._latest_at = report, time.monotonic()
        # Free space moves all the time, through others' doing; alone it is no news.
        news = report.status.model_copy(update={"disk": _ANY_DISK})
        if news != self._told:
            self._told = news
            self._on_news()
        if news != self._written and self._disk().state is not DiskState.DOWN:
            content = json.dumps(report.to_document(), indent=1).encode() + b"\n"
            try:
                self._durable.write_file(self._store.layout.node_report, content)
            except (OSError, ModelCacheError) as error:
                self._on_error(error)
                self._complain(str(error))
            else:
                self._written = news
                self._complaint = ""
        return _WRITE_SECONDS

    def _complain(self, error: str) -> None:
        if error != self._complaint:
            log.warning("report.not_written", message=error)
        self._complaint = error


_NO_SPACE = DiskSpace(capacity=0, available=0, reserved=0)
_ANY_DISK = DiskReport(capacity=0, available=0, used=0, reserved=0)
