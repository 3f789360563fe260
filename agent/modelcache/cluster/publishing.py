"""What this node reports, brought to the API server: labels, condition, NodeCache, events.

Written only when it differs from what is there, and not too often: what one node writes, every
watcher gets. A server that can't be asked is asked again with growing pauses; meanwhile everything
stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from modelcache.api import (
    API_VERSION,
    Condition,
    DiskReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.cluster.changes import ReportChanges, of_type
from modelcache.cluster.client import NODE_CACHES, Client, Patch
from modelcache.cluster.compileevents import Recording
from modelcache.cluster.failures import Failures
from modelcache.cluster.ownnode import NodeView, OwnNode
from modelcache.errors import ClusterError

__all__ = ["NodeCacheWriter", "Publisher", "Recording"]

log = structlog.get_logger(__name__)

_CHECK_SECONDS: Final = 600.0
_PROGRESS_FACTOR: Final = 3.0
_RESIDENT_SECONDS: Final = 600.0
"""What is in memory changes each minute on each node; where only that is new, it waits so long."""
_NO_DISK: Final = DiskReport(capacity=0, available=0, used=0, reserved=0)


class NodeCacheWriter:
    """Writes this node's NodeCache. Used from one thread."""

    def __init__(
        self,
        client: Client,
        name: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds`: at least so many between two writes; where only progress is new, three times
        as many, and ten minutes where only what is in memory is."""
        self._client = client
        self._name = name
        self._seconds = seconds
        self._clock = clock
        self._written: NodeCacheStatus | None = None
        self._written_at = float("-inf")
        self._checked_at = float("-inf")

    def write(self, status: NodeCacheStatus, owner: NodeView) -> float | None:
        """Write it if it is new, and not too early.

        Returns:
            Seconds until it is to be called again, at the latest; None: when there is news.

        Raises:
            ClusterError
        """
        now = self._clock()
        self._check(owner, now)
        news = status.model_copy(update={"disk": _NO_DISK})
        if self._written is not None and news == self._written:
            return None
        pause = self._seconds
        if self._written is not None and _same(news, self._written, "resident_bytes"):
            pause = max(pause, _RESIDENT_SECONDS)
        elif self._written is not None and _same(
            news, self._written, "resident_bytes", "bytes_done"
        ):
            pause *= _PROGRESS_FACTOR
        due = self._written_at + pause
        if now < due:
            return due - now
        self._put(status, owner)
        self._written, self._written_at = news, now
        return None

    def _check(self, owner: NodeView, now: float) -> None:
        """Look now and then whether it is there and has its owner: it may have been deleted."""
        if now - self._checked_at < _CHECK_SECONDS:
            return
        try:
            found = self._client.get(NODE_CACHES, self._name)
        except ClusterError as error:
            if error.status != 404:
                raise
            self._written = None
            self._written_at = float("-inf")
        else:
            owners = found["metadata"].get("ownerReferences") or []
            if not any(each["uid"] == owner.uid for each in owners):
                metadata = {"ownerReferences": [owner.reference]}
                self._client.patch(NODE_CACHES, self._name, {"metadata": metadata})
        self._checked_at = now

    def _put(self, status: NodeCacheStatus, owner: NodeView) -> None:
        document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        # "add" replaces what is there, and needs no version.
        patch = [{"op": "add", "path": "/status", "value": document}]
        try:
            self._client.patch(NODE_CACHES, self._name, patch, Patch.JSON, subresource="status")
        except ClusterError as error:
            if error.status != 404:
                raise
            thing = {
                "apiVersion": API_VERSION,
                "kind": "NodeCache",
                "metadata": {"name": self._name, "ownerReferences": [owner.reference]},
            }
            self._client.create(NODE_CACHES, thing)
            self._client.patch(NODE_CACHES, self._name, patch, Patch.JSON, subresource="status")


class _Step:
    """One thing that is written.

    A pause after a failure lasts, whatever news there are: where the API server is overloaded, each
    of thousands of nodes has some.
    """

    def __init__(
        self,
        what: str,
        write: Callable[[NodeCacheStatus, NodeView], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._write = write
        self._clock = clock
        self._failures = Failures("publish", clock=clock, part=what)
        self._again_at = float("-inf")
        self.answered = True
        """Whether the API server gave an answer the last time, be it a refusal."""

    def run(self, status: NodeCacheStatus, view: NodeView) -> float | None:
        """Write what is new; seconds until it is to be called again, None: when there is news."""
        left = self._again_at - self._clock()
        if left > 0:
            return left
        try:
            wait = self._write(status, view)
        except ClusterError as error:
            pause = self._failures.failed(error)
            self._again_at = self._clock() + pause
            self.answered = error.status != 0
            return pause
        self._failures.settled()
        self.answered = True
        return wait


class Publisher:
    """Brings the report to the API server. `cycle` is a task's."""

    def __init__(
        self,
        *,
        node: OwnNode,
        writer: NodeCacheWriter,
        events: Recording,
        report: Callable[[], NodeCache | None],
        condition: str,
        boot_id: str,
        before: NodeCache | None,
        disk_condition: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            node, writer, events: where it is published.
            report: gives what is to be published.
            condition: the type of the node's condition.
            boot_id: of this boot of the node.
            before: what was reported before this process: of that, no event tells again.
            disk_condition: the type of the condition that says how the disk is; None: there is
                none.
            clock: a monotonic one, in seconds.
        """
        self._node = node
        self._changes = ReportChanges(events, before, disk_condition)
        self._report = report
        self._condition = condition
        self._disk_condition = disk_condition
        self._boot_id = boot_id
        self._steps = [
            _Step(what, write, clock)
            for what, write in (
                ("labels", self._label),
                ("condition", self._set_condition),
                *([("disk", self._set_disk_condition)] if disk_condition else []),
                ("nodecache", writer.write),
            )
        ]

    def cycle(self) -> float | None:
        """Publish what is new.

        Returns:
            Seconds until the next round is due; None: when there is news.
        """
        report, view = self._report(), self._node.view()
        if report is None or report.status is None or view is None:
            return None
        # On the Node, not the NodeCache of the same name: that is what people describe.
        self._changes.look(report.status, view.reference)
        waits: list[float] = []
        for step in self._steps:
            wait = step.run(report.status, view)
            waits += [wait] if wait is not None else []
            # One that is refused holds no other up; but who gives no answer is not asked on.
            if not step.answered:
                break
        return min(waits, default=None)

    def _label(self, status: NodeCacheStatus, _view: NodeView) -> float | None:
        if self._node.label(status.labels):
            log.info("node.labelled", labels=len(status.labels))
        return None

    def _set_condition(self, status: NodeCacheStatus, view: NodeView) -> float | None:
        condition = self._node_condition(status, view)
        if condition is not None and self._node.set_condition(condition):
            log.info("node.condition", status=condition.status, reason=condition.reason)
        return None

    def _set_disk_condition(self, status: NodeCacheStatus, _view: NodeView) -> float | None:
        found = of_type(status, self._disk_condition)
        if found is not None and self._node.set_condition(found):
            log.info("node.condition", status=found.status, reason=found.reason)
        return None

    def _node_condition(self, status: NodeCacheStatus, view: NodeView) -> Condition | None:
        """The condition as the node carries it: true for the rest of a boot once it was."""
        found = of_type(status, self._condition)
        if found is None:
            return None
        latched = status.ready_in_boot is not None and status.ready_in_boot == self._boot_id
        wanted = [model for model in status.models if model.wanted]
        ready = sum(1 for model in wanted if model.state is ModelState.READY)
        if latched:
            if view.condition is not None and view.condition["status"] == "True":
                return None
            update = {
                "status": "True",
                "reason": "AllReady",
                "message": "the models of this node were ready in this boot",
            }
        else:
            # In numbers only: each change of a node is sent to all that watch nodes.
            update = {"message": f"{ready} of {len(wanted)} models are ready"}
        return found.model_copy(update=update)


def _same(one: NodeCacheStatus, other: NodeCacheStatus, *but: str) -> bool:
    """Whether two say the same, but for some fields of the models."""

    def rest(status: NodeCacheStatus) -> NodeCacheStatus:
        update = dict.fromkeys(but)
        models = tuple(model.model_copy(update=update) for model in status.models)
        return status.model_copy(update={"models": models})

    return rest(one) == rest(other)
