"""What happens when the node is not any more as the mirror has it, against the real API server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from modelcache.cluster.client import NODES, Client, Object
from modelcache.cluster.startuptaints import keep_node
from modelcache.errors import ClusterError
from modelcache.metrics import ControllerMetrics, ControllerState
from modelcache.service.untainting import TaintRemover
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

KEY = "modelcache.dev/not-ready"
TAINT = {"key": KEY, "effect": "NoSchedule"}
A = {"key": "example.com/a", "effect": "NoSchedule"}
B = {"key": "example.com/b", "effect": "NoSchedule"}


class Stale:
    """A mirror that stands still. It also takes the part of the events' recorder."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.listed_at: float | None = 0.0
        self.told: list[tuple[str, str]] = []

    def record(
        self,
        regarding: Object,
        type_: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        """Note an event."""
        self.told.append((regarding["name"], reason))


class Bench:
    """A remover whose view is set by the test."""

    def __init__(self, client: Client, cluster: ControlPlane) -> None:
        self.client, self.cluster = client, cluster
        self.mirror = Stale()
        state = ControllerState(leading=True, objects={}, failing=(), models={})
        self.metrics = ControllerMetrics(lambda: state)
        self.leading = True
        self.now = time.monotonic()
        self.remover = TaintRemover(
            client=client,
            nodes=self.mirror,
            condition="ModelCacheReady",
            key=KEY,
            deadline=900.0,
            leading=lambda: self.leading,
            events=self.mirror,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def make(self, name: str, *taints: Object, ready: bool = True) -> None:
        """A Node."""
        node = {"metadata": {"name": name}, "spec": {"taints": list(taints)}}
        self.client.create(NODES, {"apiVersion": "v1", "kind": "Node", **node})
        # Who takes `node.kubernetes.io/not-ready` off a new node writes the whole list, as it was
        # a moment ago: that is to be over.
        eventually(
            lambda: self.client.get(NODES, name)["spec"].get("taints", []),
            lambda seen: seen == [*taints],
            pause=0.02,
        )
        if ready:
            moment = "2024-01-01T00:00:00Z"
            condition = {"type": "ModelCacheReady", "status": "True", "reason": "R", "message": ""}
            condition |= {"lastTransitionTime": moment, "lastHeartbeatTime": moment}
            path = f"/api/v1/nodes/{name}/status"
            body = {"status": {"conditions": [condition]}}
            self.cluster.api(path, "PATCH", body, "strategic-merge-patch+json")

    def see(self) -> None:
        """Bring the mirror to what is."""
        nodes = self.client.list(NODES).items
        self.mirror.objects = {
            n["metadata"]["name"]: keep_node(n, "ModelCacheReady") for n in nodes
        }

    def set_taints(self, name: str, *taints: Object) -> None:
        """As somebody else does it."""
        self.client.patch(NODES, name, {"spec": {"taints": list(taints)}})

    def taints(self, name: str) -> list[Object]:
        """Those that are not of the node controller, which finds no kubelet."""
        found: list[Any] = self.client.get(NODES, name)["spec"].get("taints") or []
        return [taint for taint in found if not taint["key"].startswith("node.kubernetes.io/")]

    def written(self, result: str) -> float:
        """How many writes had a result."""
        labels = {"resource": "nodes", "result": result}
        name = "modelcache_controller_writes_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def bench(cluster: ControlPlane) -> Iterator[Bench]:
    """A remover with an administrator's rights."""
    client = Client.connect(cluster.kubeconfig)
    yield Bench(client, cluster)
    client.close()


def test_taints_that_moved_are_looked_at_anew(bench: Bench) -> None:
    bench.make("p1", TAINT, A)
    bench.see()
    bench.set_taints("p1", A, B, TAINT)
    bench.remover.cycle()
    assert bench.taints("p1") == [A, B]
    assert (bench.written("conflict"), bench.written("ok")) == (1, 1)
    assert bench.mirror.told == [("p1", "StartupTaintRemoved")]


def test_a_taint_that_somebody_else_took_off_is_no_trouble(bench: Bench) -> None:
    bench.make("p1", TAINT, A)
    bench.see()
    bench.set_taints("p1", A)
    bench.remover.cycle()
    assert bench.taints("p1") == [A]
    assert bench.written("ok") == 0
    assert bench.mirror.told == []


def test_a_new_node_of_the_same_name_keeps_its_taint(bench: Bench) -> None:
    bench.make("p1", TAINT)
    bench.see()
    bench.client.delete(NODES, "p1")
    bench.make("p1", TAINT, ready=False)
    bench.remover.cycle()
    assert bench.taints("p1") == [TAINT]


def test_a_node_that_is_gone_holds_no_other_up(bench: Bench) -> None:
    for name in ("p1", "p2"):
        bench.make(name, TAINT)
    bench.see()
    bench.client.delete(NODES, "p1")
    bench.remover.cycle()
    assert bench.taints("p2") == []


def test_what_is_done_is_not_done_again_before_the_mirror_has_it(bench: Bench) -> None:
    bench.make("p1", TAINT)
    bench.see()
    for _ in range(3):
        bench.remover.cycle()
        bench.mirror.objects = dict(bench.mirror.objects)
    assert (bench.written("ok"), bench.written("conflict")) == (1, 0)
    assert len(bench.mirror.told) == 1


def test_who_does_not_lead_writes_nothing(bench: Bench) -> None:
    bench.make("p1", TAINT)
    bench.see()
    bench.leading = False
    bench.remover.cycle()
    assert bench.taints("p1") == [TAINT]
    bench.leading = True
    bench.remover.cycle()
    assert bench.taints("p1") == []


def test_many_nodes_are_not_one_round(bench: Bench) -> None:
    """A round that lasts for minutes looks like one that hangs, and the kubelet ends that."""
    names = ["p1", "p2", "p3"]
    for name in names:
        bench.make(name, TAINT)
    bench.see()
    bench.remover._clock = itertools.count(bench.now, 50.0).__next__
    left = []
    for _ in names:
        bench.remover.cycle()
        left.append(sum(TAINT in bench.taints(name) for name in names))
    assert left == [2, 1, 0]


def test_a_node_that_is_always_refused_holds_no_other_up(bench: Bench) -> None:
    for name in ("p1", "p2"):
        bench.make(name, TAINT)
    bench.client.patch(NODES, "p1", {"metadata": {"labels": {"refused": "yes"}}})
    bench.see()
    with refusing(bench.cluster):
        eventually(lambda: _is_refused(bench, "p1"))
        bench.remover.cycle()  # the server says 500, as it may for all: a pause
        assert (bench.written("error"), bench.taints("p2")) == (1, [TAINT])
        bench.now += 60.0
        bench.remover.cycle()
        assert bench.taints("p2") == []
        assert bench.taints("p1") == [TAINT]
    bench.now += 60.0
    bench.remover.cycle()
    assert bench.taints("p1") == []


def _is_refused(bench: Bench, name: str) -> bool:
    try:
        bench.set_taints(name, TAINT)
    except ClusterError:
        return True
    return False


@contextmanager
def refusing(cluster: ControlPlane) -> Iterator[None]:
    """Writes of Nodes that are labelled so are refused: their webhook can't be reached."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    hook = {
        "name": "refuse.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["UPDATE"],
                "resources": ["nodes"],
            }
        ],
        "objectSelector": {"matchLabels": {"refused": "yes"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    document = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "refuse"},
        "webhooks": [hook],
    }
    cluster.api(path, "POST", document)
    try:
        yield
    finally:
        cluster.api(f"{path}/refuse", "DELETE")
