"""What the controller deletes, and what it doesn't, against the real API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelcache.cluster.client import LEASES, NODE_CACHES, NODES, Client, Listing, Object, Resource
from modelcache.cluster.leases import Leases
from modelcache.cluster.permits import PERMIT_LABEL
from modelcache.cluster.tallying import keep_reports
from modelcache.metrics import ControllerMetrics, ControllerState
from modelcache.service.tidying import Tidying
from tests.support.cluster.plane import ControlPlane

NAMESPACE = "modelcache-system"
GRACE = 600.0


class Seen:
    """A mirror that stands still."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.listed_at: float | None = 0.0


class Asking(Client):
    """A client; `after_list` happens between its list and what is done on account of it."""

    after_list: Callable[[], object] = staticmethod(lambda: None)

    def list(self, resource: Resource, namespace: str = "", **options: Any) -> Listing:
        found = super().list(resource, namespace, **options)
        self.after_list()
        return found


class Bench:
    """A Tidying whose view and clock are set by the test."""

    def __init__(self, client: Asking) -> None:
        self.client = client
        self.nodes, self.caches = Seen(), Seen()
        self.now = 0.0
        self.leading = True
        state = ControllerState(leading=True, objects={}, failing=(), models={})
        self.tidying = Tidying(
            client=client,
            namespace=NAMESPACE,
            nodes=self.nodes,
            caches=self.caches,
            leading=lambda: self.leading,
            metrics=ControllerMetrics(lambda: state),
            grace=GRACE,
            clock=lambda: self.now,
        )

    def hold(self, name: str, **labels: str) -> None:
        """Take a Lease, or renew it."""
        Leases(self.client, NAMESPACE, "holder").acquire(name, 40, labels)

    def leases(self) -> set[str]:
        """The Leases that there are."""
        found = self.client.list(LEASES, NAMESPACE).items
        return {lease["metadata"]["name"] for lease in found}

    def make_cache(self, name: str) -> None:
        """A NodeCache without an owner, which the mirror sees."""
        kind = {"apiVersion": "modelcache.dev/v1alpha1", "kind": "NodeCache"}
        made = self.client.create(NODE_CACHES, {**kind, "metadata": {"name": name}})
        self.caches.objects[name] = keep_reports(made)

    def make_node(self, name: str) -> None:
        """A Node, which the mirror does not see."""
        self.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    def node_caches(self) -> set[str]:
        """The NodeCaches that there are."""
        return {cache["metadata"]["name"] for cache in self.client.list(NODE_CACHES).items}

    def look(self, *times: float) -> None:
        """Look at moments, in seconds from now."""
        for seconds in times:
            self.now += seconds
            self.tidying.cycle()


@pytest.fixture
def bench(cluster: ControlPlane) -> Iterator[Bench]:
    """A Tidying with an administrator's rights."""
    client = Asking.connect(cluster.kubeconfig)
    yield Bench(client)
    client.close()


def test_permits_of_holders_that_are_gone_go_and_nothing_else(bench: Bench) -> None:
    for name in ("modelcache-permit-old-0", "modelcache-permit-live-0"):
        bench.hold(name, **{PERMIT_LABEL: "x"})
    bench.hold("modelcache-controller")
    bench.look(0.0, GRACE)
    assert len(bench.leases()) == 3
    bench.hold("modelcache-permit-live-0")
    bench.look(40.0)
    assert bench.leases() == {"modelcache-permit-live-0", "modelcache-controller"}


def test_a_permit_that_is_renewed_in_the_last_moment_stays(bench: Bench) -> None:
    bench.hold("modelcache-permit-old-0", **{PERMIT_LABEL: "x"})
    bench.look(0.0)
    renewed: list[None] = []

    def renew() -> None:
        if not renewed:
            renewed.append(None)
            bench.hold("modelcache-permit-old-0")

    bench.client.after_list = renew
    bench.look(2 * GRACE)
    assert renewed
    assert bench.leases() == {"modelcache-permit-old-0"}


def test_node_caches_without_node_and_owner_go(bench: Bench) -> None:
    bench.make_cache("orphan")
    bench.make_node("unseen")  # the mirror of nodes is behind
    bench.make_cache("unseen")
    bench.nodes.objects = {"other": {}}
    bench.look(0.0, GRACE - 1)
    assert bench.node_caches() == {"orphan", "unseen"}
    bench.look(1.0)
    assert bench.node_caches() == {"unseen"}


def test_a_list_of_nodes_that_is_suddenly_empty_deletes_nothing(bench: Bench) -> None:
    bench.make_cache("orphan")
    bench.look(0.0, GRACE, GRACE)
    assert bench.node_caches() == {"orphan"}


def test_who_does_not_lead_deletes_nothing(bench: Bench) -> None:
    bench.hold("modelcache-permit-old-0", **{PERMIT_LABEL: "x"})
    bench.look(0.0)
    bench.leading = False
    bench.look(2 * GRACE)
    assert bench.leases() == {"modelcache-permit-old-0"}


def test_nothing_is_concluded_before_everything_was_listed(bench: Bench) -> None:
    bench.make_cache("orphan")
    bench.nodes.objects = {"other": {}}
    bench.nodes.listed_at = None
    bench.look(0.0, 2 * GRACE)
    assert bench.node_caches() == {"orphan"}
