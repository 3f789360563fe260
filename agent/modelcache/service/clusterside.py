"""The agent's side towards the cluster: what it watches there, and what it brings there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Container, Mapping
from pathlib import Path
from typing import Final

import structlog

from modelcache.api import API_VERSION, CompileCache, NodeCache
from modelcache.cluster.client import (
    CACHED_MODELS,
    COMPILE_CACHES,
    NODES,
    PODS,
    Client,
    Object,
    OnAnswer,
)
from modelcache.cluster.desired import (
    BothKinds,
    ClusterCatalog,
    keep_compile_cache,
    keep_desired,
    published,
    withdrawn,
)
from modelcache.cluster.events import Recorder
from modelcache.cluster.inuse import compile_caches_in_use, keep_use, pods_using
from modelcache.cluster.leases import Leases
from modelcache.cluster.ownnode import OwnNode, keep_node
from modelcache.cluster.permits import Permits
from modelcache.cluster.publishing import NodeCacheWriter, Publisher
from modelcache.cluster.watching import Mirror
from modelcache.planning.labelling import COMPILE_LABEL, MODEL_LABEL
from modelcache.planning.using import Uses
from modelcache.service.heartbeats import Task
from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from modelcache.service.surroundings import Node
from modelcache.settings import AgentSettings
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_WATCH_LATE_SECONDS: Final = 1200.0
_LATE_SECONDS: Final = 300.0
_BUNDLE_PERMIT: Final = "bundle/"
"""Begins the keys of permits that are for bundles."""


def boot_id() -> str:
    """The id of this boot of the node, as kubelet reports it; also in a container the node's."""
    return _BOOT_ID.read_text().strip()


class ClusterSide:
    """Puts the parts for the cluster together. Implements `Surroundings`."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        root: Path,
        before: NodeCache | None,
        report: Callable[[], NodeCache | None],
        on_catalog: Callable[[], None],
        on_change: Callable[[], None],
        beside: Callable[[Uses], Uses] = lambda uses: uses,
        on_pods: Callable[[], None] = lambda: None,
        on_answer: OnAnswer = lambda *_: None,
    ) -> None:
        """Nothing is asked of the API server yet.

        Args:
            settings: the agent's.
            root: the cache's root.
            before: what was reported before this process.
            report: what is to be published.
            on_catalog: called when the catalog may be another.
            on_change: called when an answer of this object may be another.
            beside: adds to what pods use what this machine tells.
            on_pods: called when this node's pods use something else.
            on_answer: told of each request to the API server.

        Raises:
            UsageError: there is no way to the API server.
        """
        self._root = str(root)
        self._beside = beside
        self._name = settings.node_name
        self._namespace = settings.namespace
        self._on_change = on_change
        self._on_pods = on_pods
        self.client = Client.connect(settings.kubeconfig, on_answer=on_answer)
        mine = f"metadata.name={self._name}"
        self._nodes = Mirror(
            self.client,
            NODES,
            fields=mine,
            keep=keep_node(READY_CONDITION, (DISK_CONDITION,)),
            on_change=self._node_changed,
        )
        self._pods = Mirror(
            self.client,
            PODS,
            fields=f"spec.nodeName={self._name}",
            keep=keep_use,
            on_change=self._pods_changed,
        )
        self.mirrors = [self._nodes, self._pods]
        self.catalog: BothKinds | None = None
        self._compiled: Mirror | None = None
        if settings.catalog_path is None:
            models = Mirror(self.client, CACHED_MODELS, keep=keep_desired, on_change=on_catalog)
            self._compiled = Mirror(
                self.client, COMPILE_CACHES, keep=keep_compile_cache, on_change=on_catalog
            )
            self.mirrors += [models, self._compiled]
            known = before.status if before else None
            wanted = [each.name for each in known.models if each.wanted] if known else []
            compiled = [each.name for each in known.compile_caches] if known else []
            self.catalog = BothKinds(
                ClusterCatalog(models, wanted),
                ClusterCatalog(self._compiled, compiled, kind=CompileCache),
            )
        self._own = OwnNode(
            self.client,
            self._name,
            READY_CONDITION,
            lambda: self._nodes.objects.get(self._name),
            (DISK_CONDITION,),
        )
        self._recorder = Recorder(self.client, "modelcache.dev/agent", self._name)
        self._publisher = Publisher(
            node=self._own,
            writer=NodeCacheWriter(self.client, self._name, settings.report_seconds),
            events=self._recorder,
            report=report,
            condition=READY_CONDITION,
            boot_id=boot_id(),
            before=before,
            disk_condition=DISK_CONDITION,
        )
        self._permits = (
            Permits(
                Leases(self.client, self._namespace, self._name),
                slots=settings.nodes_at_once,
                on_change=on_change,
            )
            if settings.nodes_at_once
            else None
        )
        self._wanting = threading.Lock()
        self._wanted: dict[str, tuple[Mapping[str, int], int]] = {}
        self.tasks = self._make_tasks()

    def _make_tasks(self) -> dict[str, Task]:
        kinds = ("node", "pods", "models", "compilecaches")
        tasks = {
            f"watch-{kind}": Task(f"watch-{kind}", mirror.cycle, late_after=_WATCH_LATE_SECONDS)
            for kind, mirror in zip(kinds, self.mirrors, strict=False)
        }
        tasks["publish"] = Task("publish", self._publisher.cycle, late_after=_LATE_SECONDS)
        tasks["events"] = Task("events", self._recorder.cycle, late_after=_LATE_SECONDS)
        if self._permits is not None:
            tasks["permits"] = Task("permits", self._permits.cycle, late_after=_LATE_SECONDS)
        return tasks

    def start(self, cancel: Cancel) -> None:
        """Begin to watch and to publish, until `cancel` is set."""
        log.info("cluster.connecting", server=self.client.server, node=self._name)
        for mirror in self.mirrors:
            cancel.add(mirror.stop)
        for task in self.tasks.values():
            task.start(cancel)

    def publish(self) -> None:
        """There is news to be published."""
        self.tasks["publish"].wake()

    def _pods_changed(self) -> None:
        self._on_change()
        self._on_pods()

    def _node_changed(self) -> None:
        self._on_change()
        self.publish()

    # Surroundings

    def node(self) -> Node | None:
        """The node with its labels, less those that an agent writes."""
        view = self._own.view()
        if view is None:
            return None
        ours = view.ours
        return Node(
            view.name, {key: value for key, value in view.labels.items() if key not in ours}
        )

    def uses(self) -> Uses:
        """What the pods of this node use, and what this machine tells."""
        if not self.knows_pods():
            return self._beside(Uses(unknown="the API server doesn't say which pods this node has"))
        pods = self._pods.objects.values()
        users = pods_using(pods, self._root, self._namespace, time.time())
        return self._beside(Uses(users))

    def labelled(self) -> Collection[str] | None:
        """The models that the node carries a label of; None: it can't be asked now."""
        view = self._own.view()
        if view is None:
            return None
        return {key.removeprefix(MODEL_LABEL) for key in view.ours if key.startswith(MODEL_LABEL)}

    def kept_compile_caches(self) -> Container[str] | None:
        """The compile caches that pods use, and those that the node carries a label of; None: it
        can't be asked now."""
        view = self._own.view()
        if view is None or not self.knows_pods():
            return None
        use = compile_caches_in_use(self._pods.objects.values(), self._namespace)
        return use | {
            key.removeprefix(COMPILE_LABEL) for key in view.ours if key.startswith(COMPILE_LABEL)
        }

    def published(self, name: str, key: str | None) -> frozenset[str]:
        """Digests that a compile cache's status has for a key."""
        return published(self._compile_cache(name), key)

    def withdrawn(self, name: str) -> frozenset[str]:
        """Digests of a compile cache that are to be seeded nowhere."""
        return withdrawn(self._compile_cache(name))

    def tell(self, type_: str, reason: str, action: str, note: str, model: str) -> None:
        """Record an Event on this node that has to do with a model."""
        view = self._own.view()
        if view is None:
            return
        node = view.reference
        related = {"apiVersion": API_VERSION, "kind": "CachedModel", "name": model}
        self._recorder.record(node, type_, reason, action, note, related)
        self.tasks["events"].wake()

    def knows_pods(self) -> bool:
        """Whether all pods of this node are known now."""
        return self._pods.listed_at is not None and self._pods.trouble is None

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod of this node, as `keep_use` keeps it; None: there is none."""
        return self._pods.objects.get(f"{namespace}/{name}")

    def _compile_cache(self, name: str) -> Object | None:
        return self._compiled.objects.get(name) if self._compiled is not None else None

    def permitted(self) -> Container[str] | None:
        """Keys of the permits that this node has."""
        return self._permits.held() if self._permits is not None else None

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        """Ask for permits, and give back those that are not among them."""
        self._want("models", keys, most)

    def permitted_bundles(self) -> Container[str] | None:
        """Digests of the bundles that this node may fetch."""
        held = self.permitted()
        return None if held is None else _Prefixed(_BUNDLE_PERMIT, held)

    def want_bundles(self, digests: Collection[str], most: int) -> None:
        """As `want_permits`, of bundles."""
        self._want("bundles", {f"{_BUNDLE_PERMIT}{digest}": 0 for digest in digests}, most)

    def _want(self, part: str, keys: Mapping[str, int], most: int) -> None:
        """Models and bundles are asked for in threads of their own, and together."""
        if self._permits is None:
            return
        with self._wanting:
            if self._wanted.get(part, ({}, 0)) == (keys, most):
                return
            self._wanted[part] = dict(keys), most
            asked = {key: rank for of, _ in self._wanted.values() for key, rank in of.items()}
            self._permits.want(asked, sum(number for _, number in self._wanted.values()))
        self.tasks["permits"].wake()

    def close(self, deadline: float) -> None:
        """After `cancel` is set: give the permits back, so that others needn't wait until they
        expire, and close the connections. Nothing of it is waited for past the deadline.

        Args:
            deadline: a moment of `time.monotonic`.
        """
        ended = [task.join(deadline) for task in self.tasks.values()]
        if self._permits is not None and all(ended):
            # In a thread of its own: an API server may hang.
            giving = threading.Thread(target=self._permits.close, daemon=True)
            giving.start()
            giving.join(max(0.0, deadline - time.monotonic()))
        self.client.close()


class _Prefixed:
    """Those that are held under another's prefix."""

    def __init__(self, prefix: str, held: Container[str]) -> None:
        self._prefix = prefix
        self._held = held

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._held
