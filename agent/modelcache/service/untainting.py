"""Startup taints taken off nodes, by the replica that leads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from modelcache.cluster.client import NODES, Client, Object, Patch
from modelcache.cluster.publishing import Recording
from modelcache.cluster.resources import node_reference
from modelcache.cluster.startuptaints import Cause, Removal, decide, keep_node
from modelcache.errors import ClusterError
from modelcache.metrics import ControllerMetrics
from modelcache.service.pausing import Pause
from modelcache.service.statuswriting import REFUSED_SECONDS, ROUND_SECONDS, Seen

log = structlog.get_logger(__name__)

_TRIES: Final = 5
"""Against others that write the same node's taints at the same time."""
_MOST_SECONDS: Final = 60.0
"""Of one round, which goes on in the next: one that lasts for minutes counts as hung."""


class TaintRemover:
    """Takes startup taints off nodes. `cycle` is a task's."""

    def __init__(
        self,
        *,
        client: Client,
        nodes: Seen,
        condition: str,
        key: str,
        deadline: float,
        leading: Callable[[], bool],
        events: Recording,
        metrics: ControllerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            client, nodes: where nodes are written, and read (as `keep_node` leaves them).
            condition: the type of the condition that says that a node is ready.
            key: the taint's.
            deadline: in seconds after a node's creation.
            leading, events, metrics: the controller's.
            clock: a monotonic one.
        """
        self._client = client
        self._nodes = nodes
        self._condition = condition
        self._key = key
        self._deadline = timedelta(seconds=deadline)
        self._leading = leading
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._pause = Pause("startup_taint.removal", clock)
        self._written: dict[str, Object] = {}
        self._looked_at: object = None
        self._next_due: datetime | None = None
        self._not_before: dict[str, float] = {}
        self._retry_at = math.inf

    def cycle(self) -> float:
        """Take off those that are due. Returns seconds until the next look."""
        if not self._leading() or self._nodes.listed_at is None or self._pause.left:
            return ROUND_SECONDS
        objects, now, moment = self._nodes.objects, datetime.now(UTC), self._clock()
        is_due = self._next_due is not None and now >= self._next_due
        if objects is self._looked_at and not is_due and moment < self._retry_at:
            return ROUND_SECONDS
        decision = decide(self._known(objects), self._key, self._deadline, now)
        # Those that failed come last: one that always fails holds no other up.
        for removal in sorted(decision.removals, key=lambda r: self._not_before.get(r.node, 0.0)):
            if not self._leading() or self._clock() - moment >= _MOST_SECONDS:
                return ROUND_SECONDS
            if moment < self._not_before.get(removal.node, 0.0):
                continue
            try:
                self._remove(removal)
            except ClusterError as error:
                self._metrics.wrote(NODES.plural, "error")
                if error.retryable:
                    self._not_before[removal.node] = moment
                    self._pause.failed(error)
                    return ROUND_SECONDS
                log.warning("startup_taint.refused", node=removal.node, message=str(error))
                self._not_before[removal.node] = moment + REFUSED_SECONDS
            else:
                self._pause.succeeded()
                self._not_before.pop(removal.node, None)
        self._looked_at, self._next_due = objects, decision.next_due
        self._retry_at = min(self._not_before.values(), default=math.inf)
        return ROUND_SECONDS

    def _known(self, seen: Mapping[str, Object]) -> list[Object]:
        """The nodes as the mirror has them, or as our own writes left them since."""
        for name in [name for name in self._not_before if name not in seen]:
            del self._not_before[name]
        for name, written in list(self._written.items()):
            if name not in seen or seen[name]["version"] >= written["version"]:
                del self._written[name]
        return [self._written.get(name, node) for name, node in seen.items()]

    def _remove(self, removal: Removal) -> None:
        """Raises ClusterError, also where others write the same taints all the time."""
        for tried in range(1, _TRIES + 1):
            try:
                node = self._client.patch(NODES, removal.node, removal.patch, Patch.JSON)
            except ClusterError as error:
                if error.status == 404:
                    return
                # 422: a test failed, the taints are not the ones that were seen.
                if error.status not in (409, 422) or tried == _TRIES:
                    raise
                self._metrics.wrote(NODES.plural, "conflict")
                again = self._decide_anew(removal.node)
                if again is None:
                    return
                removal = again
            else:
                self._written[removal.node] = keep_node(node, self._condition)
                self._metrics.wrote(NODES.plural, "ok")
                self._metrics.untainted(removal.cause.value)
                self._tell(removal)
                return

    def _decide_anew(self, name: str) -> Removal | None:
        """What is to be done with a node as it is at this moment."""
        try:
            node = keep_node(self._client.get(NODES, name), self._condition)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        decision = decide([node], self._key, self._deadline, datetime.now(UTC))
        return decision.removals[0] if decision.removals else None

    def _tell(self, removal: Removal) -> None:
        log.info("startup_taint.removed", node=removal.node, cause=removal.cause.value)
        regarding = node_reference(removal.node, removal.uid)
        if removal.cause is Cause.READY:
            kind, reason = "Normal", "StartupTaintRemoved"
            note = f"The node's models are ready: the taint {self._key} is removed"
        else:
            kind, reason = "Warning", "StartupDeadlinePassed"
            minutes = self._deadline.total_seconds() / 60
            note = f"The node's models are not ready after {minutes:g} minutes: the taint"
            note += f" {self._key} is removed all the same"
        self._events.record(regarding, kind, reason, "Untaint", note)
