"""What the node reports: a NodeCache, written to `node.json` and served at `/v1/node`.

All of it is derived from the store and the catalog, so a restart reports the same.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from modelcache import __version__
from modelcache.api import (
    CatalogReport,
    Condition,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.nodecache import NodeMeta
from modelcache.catalog import Catalog
from modelcache.planning.labelling import labels
from modelcache.store import Layout, Store
from modelcache.store.durable import Durable

log = structlog.get_logger(__name__)

READY_CONDITION = "ModelCacheReady"
_WRITE_SECONDS = 1.0


def read_node_report(layout: Layout) -> NodeCache | None:
    """The report that an agent last wrote to the root; None when there is none to be read."""
    try:
        return NodeCache.model_validate_json(layout.node_report.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def ready_condition(reports: tuple[ModelReport, ...], before: Condition | None) -> Condition:
    """Whether all that the node is to hold is there."""
    wanted = [report for report in reports if report.wanted]
    missing = [report for report in wanted if report.state is not ModelState.READY]
    failed = [report for report in missing if report.attempts]
    if not missing:
        status, reason = "True", "AllReady"
        message = f"{len(wanted)} of {len(wanted)} models are ready"
    else:
        status, reason = "False", "ModelsFailing" if failed else "ModelsPending"
        message = f"{len(wanted) - len(missing)} of {len(wanted)} models are ready; " + "; ".join(
            f"{r.name}: {r.reason or r.state}" for r in (failed or missing)[:5]
        )
    changed = before is None or before.status != status
    return Condition(
        type=READY_CONDITION,
        status="True" if status == "True" else "False",
        reason=reason,
        message=message,
        last_transition_time=(
            datetime.now(UTC).replace(microsecond=0) if changed else before.last_transition_time
        )
        if before is not None
        else datetime.now(UTC).replace(microsecond=0),
    )


class Reporter:
    """Writes the report when it changes, at most once a second. `cycle` is a task's."""

    def __init__(
        self,
        *,
        store: Store,
        node_name: str,
        reports: Callable[[], tuple[ModelReport, ...]],
        catalog: Callable[[], Catalog | None],
        used: Callable[[], int],
        max_labels: int,
    ) -> None:
        self._store = store
        self._durable = Durable(store.layout.scratch)
        self._node_name = node_name
        self._reports = reports
        self._catalog = catalog
        self._used = used
        self._max_labels = max_labels
        self._mutex = threading.Lock()
        self._written: bytes | None = None
        before = read_node_report(store.layout)
        conditions = before.status.conditions if before and before.status else ()
        self._condition = next((c for c in conditions if c.type == READY_CONDITION), None)

    def current(self) -> NodeCache:
        """The report as of now."""
        reports = self._reports()
        catalog = self._catalog()
        space = self._store.space.measure()
        with self._mutex:
            if catalog is not None:
                self._condition = ready_condition(reports, self._condition)
            conditions = (self._condition,) if self._condition else ()
        return NodeCache(
            metadata=NodeMeta(name=self._node_name),
            status=NodeCacheStatus(
                agent_version=__version__,
                root=str(self._store.layout.root),
                labels=labels(reports, self._max_labels),
                models=reports,
                disk=DiskReport(
                    capacity=space.capacity,
                    available=space.available,
                    used=self._used(),
                    reserved=space.reserved,
                ),
                catalog=catalog.report() if catalog else CatalogReport(),
                conditions=conditions,
            ),
        )

    def cycle(self) -> float:
        """Write the report if it has changed."""
        document = self.current().to_document()
        content = json.dumps(document, indent=1).encode() + b"\n"
        # Free space moves all the time, through others' doing; alone it is no news.
        document["status"]["disk"] = {}
        news = json.dumps(document).encode()
        if news != self._written:
            try:
                self._durable.write_file(self._store.layout.node_report, content)
            except OSError as error:
                log.warning("report.not_written", error=error.strerror)
            else:
                self._written = news
        return _WRITE_SECONDS
