"""What the node reports: a NodeCache, written to `node.json` and served at `/v1/node`.

All of it is derived from the store and the catalog, so a restart reports the same.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

import structlog
from pydantic import ValidationError

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
from modelcache.errors import ModelCacheError
from modelcache.planning.labelling import compile_labels, labels, unlabelled
from modelcache.store import Layout, Store
from modelcache.store.durable import Durable

log = structlog.get_logger(__name__)

READY_CONDITION = "ModelCacheReady"
_WRITE_SECONDS = 1.0


def read_node_report(layout: Layout) -> NodeCache | None:
    """The report that an agent last wrote to the root; None when there is none to be read."""
    try:
        return NodeCache.model_validate_json(layout.node_report.read_bytes())
    except (OSError, ValidationError):
        return None


def is_unreadable(catalog: Catalog) -> bool:
    """Whether nothing that was written is in force."""
    return not catalog.complete and not catalog.documents


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
        status, reason = "False", "ModelsFailing" if failed else "ModelsPending"
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
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """`reports` and `catalog` give None as long as nothing is known: nothing is reported.

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
        self._boot_id = boot_id
        self._on_news = on_news
        self._mutex = threading.Lock()
        self._written: NodeCacheStatus | None = None
        self._told: NodeCacheStatus | None = None
        self._complaint = ""
        before = read_node_report(store.layout)
        conditions = before.status.conditions if before and before.status else ()
        self._condition = next((c for c in conditions if c.type == READY_CONDITION), None)
        self._ready_in_boot = before.status.ready_in_boot if before and before.status else None
        self._latest: NodeCache | None = None

    @property
    def latest(self) -> NodeCache | None:
        """The report of the last cycle; None before there was one."""
        return self._latest

    def current(self) -> NodeCache | None:
        """The report as of now; None as long as nothing is known."""
        reports, catalog = self._reports(), self._catalog()
        if reports is None or catalog is None:
            return None
        compiled = self._compile_caches()
        space = self._store.space.measure()
        now = datetime.now(UTC).replace(microsecond=0)
        with self._mutex:
            self._condition = ready_condition(reports, catalog, self._condition, now)
            condition = self._condition
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
                    **compile_labels(compiled, self._max_labels),
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
                ),
                catalog=catalog.report(),
                conditions=(condition,),
            ),
        )

    def cycle(self) -> float:
        """Write the report if it has changed."""
        report = self.current()
        if report is None or report.status is None:
            return _WRITE_SECONDS
        self._latest = report
        # Free space moves all the time, through others' doing; alone it is no news.
        news = report.status.model_copy(update={"disk": _ANY_DISK})
        if news != self._told:
            self._told = news
            self._on_news()
        if news != self._written:
            content = json.dumps(report.to_document(), indent=1).encode() + b"\n"
            try:
                self._durable.write_file(self._store.layout.node_report, content)
            except (OSError, ModelCacheError) as error:
                self._complain(str(error))
            else:
                self._written = news
                self._complaint = ""
        return _WRITE_SECONDS

    def _complain(self, error: str) -> None:
        if error != self._complaint:
            log.warning("report.not_written", error=error)
        self._complaint = error


_ANY_DISK = DiskReport(capacity=0, available=0, used=0, reserved=0)
