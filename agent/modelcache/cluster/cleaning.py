"""Uninstalling: everything of ours taken off the nodes, by one program that runs once.

The agents go first, since they would put their labels back. What lies on the nodes' disks stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from modelcache.cluster.client import NODE_CACHES, NODES, PODS, Client, Object, Patch, Resource
from modelcache.cluster.jsonpatches import pointer
from modelcache.cluster.ownnode import is_ours
from modelcache.cluster.startuptaints import same_node, taint_removal
from modelcache.errors import ClusterError, ModelCacheError
from modelcache.transfer import delay

T = TypeVar("T")

WORKLOADS: Final = (
    (Resource("apps", "v1", "daemonsets", namespaced=True), "modelcache-agent"),
    (Resource("apps", "v1", "deployments", namespaced=True), "modelcache-controller"),
)
"""What would write again what is taken off."""

PODS_OF_OURS: Final = (
    "app.kubernetes.io/name=modelcache,app.kubernetes.io/component in (agent, controller)"
)
"""The label selector of their pods."""

_PASSES: Final = 5
_TRIES: Final = 20
_AT_ONCE: Final = 8
_LOOK_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_MOST_PAUSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a node carries of ours, and the patches that take it off."""

    node: str
    patch: tuple[Object, ...]
    """RFC 6902, for labels and taints: it fails where they are others by now."""
    conditions: tuple[str, ...]
    """The types of those of ours that it has."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was done."""

    nodes: int
    """Nodes there are."""
    changed: int
    """Nodes that carried something of ours."""
    node_caches: int
    """NodeCaches deleted."""


def leftover(
    node: Object, startup_taints: Collection[str], conditions: Collection[str]
) -> Leftover | None:
    """What is ours on a node; None: nothing.

    Args:
        node: as the API server has it.
        startup_taints: keys of taints that are ours, with whatever value and effect.
        conditions: the types of the node conditions.
    """
    metadata = node["metadata"]
    name, labels = metadata["name"], metadata.get("labels") or {}
    taints = (node.get("spec") or {}).get("taints") or []
    steps: list[Object] = [
        {"op": "remove", "path": pointer(["metadata", "labels", key])}
        for key in sorted(filter(is_ours, labels))
    ]
    steps += taint_removal(taints, startup_taints)
    if steps:
        steps.insert(0, same_node(metadata["uid"]))
    found = {each.get("type") for each in (node.get("status") or {}).get("conditions") or ()}
    ours = tuple(each for each in conditions if each in found)
    return Leftover(name, tuple(steps), ours) if steps or ours else None


class Cleaning:
    """Takes everything of ours off the nodes of a cluster."""

    def __init__(
        self,
        client: Client,
        *,
        startup_taints: Collection[str],
        conditions: Collection[str],
        tell: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`tell` is given lines for a person; the taints and the conditions as in `leftover`."""
        self._client = client
        self._startup_taints = startup_taints
        self._conditions = conditions
        self._tell = tell
        self._sleep = sleep

    def stop_agents(self, namespace: str, seconds: float) -> None:
        """Delete the DaemonSet and the Deployment, and wait for their pods to end, but not longer.

        Raises:
            ClusterError
        """
        for resource, name in WORKLOADS:
            if self._delete(resource, name, namespace):
                self._tell(f"deleted {resource} {name}")
        deadline = time.monotonic() + seconds
        while names := self._persistently(lambda: self._pods(namespace)):
            if time.monotonic() >= deadline:
                # As on a node that nobody reaches: it reaches no API server either, and its rights
                # go with what is uninstalled next.
                few = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                self._tell(f"went on though {len(names)} pods have not ended: {few}")
                return
            self._sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))

    def clean(self) -> Cleaned:
        """Take it off, look again, until nothing is left. Then delete the NodeCaches.

        Raises:
            ClusterError: the API server refuses, or doesn't answer for long.
            ModelCacheError: something comes back all the time.
        """
        changed: set[str] = set()
        refused: dict[str, ClusterError] = {}
        for number in range(_PASSES):
            seen, left = self._persistently(self._look)
            if not left:
                return Cleaned(seen, len(changed), self._delete_node_caches())
            if number:
                # The last pass met conflicts, or failures; or somebody puts it back.
                self._sleep(delay(number, first=_FIRST_PAUSE_SECONDS, most=_MOST_PAUSE_SECONDS))
            self._tell(f"{len(left)} of {seen} nodes carry something of ours")
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                errors = pool.map(self._take_off, left)
                refused = {
                    each.node: error
                    for each, error in zip(left, errors, strict=True)
                    if error is not None
                }
            changed |= {each.node for each in left} - refused.keys()
        if refused:
            name, error = next(iter(refused.items()))
            raise ClusterError(
                f"{len(refused)} nodes could not be changed, {name} among them: {error}",
                status=error.status,
            )
        raise ModelCacheError(
            f"{len(left)} nodes carry something of ours again, {left[0].node} among them: does an"
            " agent still run?"
        )

    def _look(self) -> tuple[int, list[Leftover]]:
        """How many nodes there are, and what is left on them."""
        seen, found = 0, []
        for page in self._client.pages(NODES):
            seen += len(page.items)
            left = (leftover(node, self._startup_taints, self._conditions) for node in page.items)
            found += [each for each in left if each is not None]
        return seen, found

    def _take_off(self, what: Leftover) -> ClusterError | None:
        """One node's. One that fails holds no other up."""
        try:
            if what.patch:
                self._client.patch(NODES, what.node, what.patch, Patch.JSON)
            if what.conditions:
                gone = [{"type": each, "$patch": "delete"} for each in what.conditions]
                self._client.patch(
                    NODES,
                    what.node,
                    {"status": {"conditions": gone}},
                    Patch.STRATEGIC,
                    subresource="status",
                )
        except ClusterError as error:
            return None if error.status == 404 else error
        return None

    def _delete_node_caches(self) -> int:
        """They would go on telling what nobody looks after."""
        names = self._persistently(self._node_caches)
        for name in names:
            self._delete(NODE_CACHES, name)
        return len(names)

    def _node_caches(self) -> list[str]:
        try:
            pages = self._client.pages(NODE_CACHES)
            return [cache["metadata"]["name"] for page in pages for cache in page.items]
        except ClusterError as error:
            if error.status == 404:  # the CRD is gone already
                return []
            raise

    def _pods(self, namespace: str) -> list[str]:
        found = self._client.list(PODS, namespace, labels=PODS_OF_OURS)
        return sorted(pod["metadata"]["name"] for pod in found.items)

    def _delete(self, resource: Resource, name: str, namespace: str = "") -> bool:
        """Whether it was there."""
        try:
            self._persistently(lambda: self._client.delete(resource, name, namespace))
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _persistently(self, request: Callable[[], T]) -> T:
        """A request, made again for some minutes as long as that may help."""
        for failures in range(1, _TRIES):
            try:
                return request()
            except ClusterError as error:
                if not error.retryable:
                    raise
                pause = delay(
                    failures,
                    first=_FIRST_PAUSE_SECONDS,
                    most=_MOST_PAUSE_SECONDS,
                    wish=error.retry_after,
                )
                self._tell(f"{error}; trying again in {pause:.0f} s")
                self._sleep(pause)
        return request()
