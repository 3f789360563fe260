"""All nodes of a cluster, as the API server has them: listed once, or watched."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from modelcache.cli.nodes.views import AgentState, Look, NodeView, Teller
from modelcache.cluster.client import NODE_CACHES, PODS, Client, Object
from modelcache.cluster.reading import read_status
from modelcache.cluster.watching import Mirror
from modelcache.errors import ClusterError, UsageError
from modelcache.service.heartbeats import Task
from modelcache.settings import StatusSettings
from modelcache.transfer import Cancel

AGENT_LABELS: Final = "app.kubernetes.io/name=modelcache,app.kubernetes.io/component=agent"
"""Agents' pods, as daemonset/base/agent.yaml makes them."""

_LATE_SECONDS: Final = 1200.0
_FIRST_LOOK_SECONDS: Final = 0.1
"""How often to see whether the first list has failed: each request of it has its own time-out."""


class ListedFleet:
    """All nodes, listed anew at each look: for one."""

    def __init__(self, settings: StatusSettings) -> None:
        """Nothing is asked yet.

        Raises:
            UsageError: there is no way to the API server.
        """
        self.client = Client.connect(settings.kubeconfig, "status")
        """Who asks."""
        self._namespace = settings.namespace

    def look(self) -> Look:
        """All nodes that there are.

        Raises:
            ClusterError
        """
        caches = {_name(each): each for each in self.client.list(NODE_CACHES).items}
        pods: Iterable[Object] | None
        try:
            pods = self.client.list(PODS, self._namespace, labels=AGENT_LABELS).items
        except ClusterError:
            pods = None  # Who may read NodeCaches need not be allowed to read pods.
        return Look(_Reading().views(caches, pods), self.client.server)

    def close(self) -> None:
        """Close its connections."""
        self.client.close()


class WatchedFleet:
    """All nodes, watched: a look costs the API server nothing."""

    def __init__(self, settings: StatusSettings) -> None:
        """Begin to watch.

        Raises:
            UsageError: there is no way to the API server.
            ClusterError: it doesn't give NodeCaches.
        """
        self._client = Client.connect(settings.kubeconfig, "top")
        listed = threading.Event()
        self._caches = Mirror(
            self._client, NODE_CACHES, keep=_keep_cache, paged=True, on_change=listed.set
        )
        self._pods = Mirror(
            self._client,
            PODS,
            namespace=settings.namespace,
            labels=AGENT_LABELS,
            keep=_keep_pod,
        )
        self._reading = _Reading()
        self._cancel = Cancel()
        for name, mirror in (("nodes", self._caches), ("agents", self._pods)):
            self._cancel.add(mirror.stop)
            Task(f"watch-{name}", mirror.cycle, late_after=_LATE_SECONDS).start(self._cancel)
        while not listed.wait(_FIRST_LOOK_SECONDS):
            if self._caches.trouble is not None:
                self.close()
                raise self._caches.trouble

    def look(self) -> Look:
        """All nodes, as they were last seen."""
        known = self._pods.listed_at is not None and self._pods.trouble is None
        pods = self._pods.objects.values() if known else None
        trouble = self._caches.trouble
        return Look(
            self._reading.views(self._caches.objects, pods),
            self._client.server,
            f"not watched: {trouble}" if trouble else "",
        )

    def close(self) -> None:
        """Watch no more."""
        self._cancel.set()
        self._client.close()


class _Reading:
    """Makes views of objects, each once as long as it stays the same."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Object, NodeView]] = {}

    def views(
        self, caches: Mapping[str, Object], pods: Iterable[Object] | None
    ) -> tuple[NodeView, ...]:
        """Every node that has a NodeCache or an agent. `pods` None: they are not known."""
        agents = None if pods is None else _agents(pods)
        read = {name: self._view(name, cache) for name, cache in caches.items()}
        self._read = {name: (caches[name], view) for name, view in read.items()}
        found = []
        for name in sorted({*read, *(agents or ())}):
            view = read.get(name) or NodeView(name, None, Teller.CLUSTER)
            if agents is not None:
                state = agents.get(name, AgentState.DOWN)
                note = view.note or _note(view, state)
                view = NodeView(name, view.status, Teller.CLUSTER, state, note)
            found.append(view)
        return tuple(found)

    def _view(self, name: str, cache: Object) -> NodeView:
        known = self._read.get(name)
        if known is not None and known[0] is cache:
            return known[1]
        try:
            return NodeView(name, read_status(cache), Teller.CLUSTER)
        except UsageError as error:
            return NodeView(name, None, Teller.CLUSTER, note=f"can't be read: {error}")


def _note(view: NodeView, agent: AgentState) -> str:
    if agent is AgentState.DOWN:
        return "its agent is not ready: what is said here is what it last reported"
    return "" if view.status is not None else "its agent has reported nothing yet"


def _agents(pods: Iterable[Object]) -> dict[str, AgentState]:
    """By node, whether it has an agent that is ready."""
    found: dict[str, AgentState] = {}
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        if node and found.get(node) is not AgentState.UP:
            found[node] = AgentState.UP if _is_ready(pod) else AgentState.DOWN
    return found


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _keep_cache(thing: Object) -> Object:
    return {"metadata": _metadata(thing), "status": thing.get("status")}


def _keep_pod(thing: Object) -> Object:
    conditions = thing.get("status", {}).get("conditions") or ()
    return {
        "metadata": _metadata(thing),
        "spec": {"nodeName": thing.get("spec", {}).get("nodeName")},
        "status": {"conditions": [each for each in conditions if each.get("type") == "Ready"]},
    }


def _metadata(thing: Object) -> Object:
    return {
        key: thing["metadata"][key] for key in ("namespace", "name") if key in thing["metadata"]
    }


def _name(thing: Object) -> str:
    return str(thing["metadata"]["name"])
