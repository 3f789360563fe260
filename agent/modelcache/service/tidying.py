"""Leftovers deleted, by the replica that leads: see `cluster.leftovers`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from modelcache.cluster.client import LEASES, NODE_CACHES, NODES, Client, Resource
from modelcache.cluster.leftovers import GRACE_SECONDS, Leftovers
from modelcache.cluster.permits import PERMIT_LABEL
from modelcache.errors import ClusterError
from modelcache.metrics import ControllerMetrics
from modelcache.service.pausing import Pause
from modelcache.service.statuswriting import Seen

log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 60.0


class Tidying:
    """Deletes what nobody needs any more, and nothing else. `cycle` is a task's."""

    def __init__(
        self,
        *,
        client: Client,
        namespace: str,
        nodes: Seen,
        caches: Seen,
        leading: Callable[[], bool],
        metrics: ControllerMetrics,
        grace: float = GRACE_SECONDS,
        every: float = _EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namespace` is the Leases'; `every` is the seconds between two looks."""
        self._client = client
        self._namespace = namespace
        self._nodes, self._caches = nodes, caches
        self._leading = leading
        self._metrics = metrics
        self._every = every
        self._leftovers = Leftovers(clock, grace)
        self._pause = Pause("tidying", clock)

    def cycle(self) -> float:
        """Look once. Returns seconds until the next look."""
        listed = self._nodes.listed_at is not None and self._caches.listed_at is not None
        if not self._leading() or not listed:
            return min(self._every, 5.0)
        try:
            self._tidy()
        except ClusterError as error:
            self._pause.failed(error)
            return max(self._pause.left, self._every)
        self._pause.succeeded()
        return self._every

    def _tidy(self) -> None:
        leases = self._client.list(
            LEASES, self._namespace, labels=PERMIT_LABEL, not_older_than="0"
        ).items
        for lease in self._leftovers.permits(leases):
            metadata = lease["metadata"]
            version = metadata["resourceVersion"]
            self._delete(LEASES, metadata["name"], metadata["uid"], self._namespace, version)
        orphans = self._leftovers.node_caches(self._caches.objects.values(), self._nodes.objects)
        for cache in orphans:
            if not self._is_there(cache["name"]):
                self._delete(NODE_CACHES, cache["name"], cache["uid"])

    def _is_there(self, node: str) -> bool:
        """Whether a node is there, by the API server itself: a mirror may be behind."""
        try:
            self._client.get(NODES, node)
        except ClusterError as error:
            if error.status == 404 and error.code == "NotFound":
                return False
            raise
        return True

    def _delete(
        self, resource: Resource, name: str, uid: str, namespace: str = "", version: str = ""
    ) -> None:
        try:
            self._client.delete(resource, name, namespace, uid=uid, resource_version=version)
        except ClusterError as error:
            if error.status not in (404, 409):
                self._metrics.wrote(resource.plural, "error")
                raise
            # Gone already, or renewed or made anew meanwhile.
            self._metrics.wrote(resource.plural, "conflict")
        else:
            self._metrics.wrote(resource.plural, "ok")
            log.info("leftover.deleted", resource=resource.plural, name=name)
