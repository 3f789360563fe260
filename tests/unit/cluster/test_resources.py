from __future__ import annotations

import pytest

from modelcache.cluster.resources import (
    CACHED_MODELS,
    LEASES,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    Resource,
    asked,
)
from modelcache.metrics.contract.labels import REQUESTED


def test_paths() -> None:
    assert NODES.path() == "/api/v1/nodes"
    assert NODES.path("a", subresource="status") == "/api/v1/nodes/a/status"
    assert CACHED_MODELS.path("m") == "/apis/modelcache.dev/v1alpha1/cachedmodels/m"
    assert LEASES.path("l", "ns") == "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"


def test_a_name_leads_nowhere_else() -> None:
    assert NODES.path("../../secrets?x#y") == "/api/v1/nodes/..%2F..%2Fsecrets%3Fx%23y"


def test_how_people_name_them() -> None:
    assert str(NODES) == "nodes"
    assert str(CACHED_MODELS) == "cachedmodels.modelcache.dev"
    assert str(Resource("events.k8s.io", "v1", "events")) == "events.events.k8s.io"


@pytest.mark.parametrize(
    ("method", "path", "query", "what"),
    [
        ("GET", NODES.path(), {}, ("nodes", "list")),
        ("GET", NODES.path("n"), {}, ("nodes", "get")),
        ("GET", NODES.path(), {"watch": "true"}, ("nodes", "watch")),
        ("GET", NAMESPACES.path("pods"), {}, ("namespaces", "get")),
        ("GET", PODS.path(namespace="s"), {"limit": "5"}, ("pods", "list")),
        ("GET", PODS.path("p", "s"), {}, ("pods", "get")),
        ("POST", LEASES.path(namespace="s"), {}, ("leases", "create")),
        ("PUT", LEASES.path("l", "s"), {}, ("leases", "update")),
        ("PATCH", NODE_CACHES.path("n", subresource="status"), {}, ("nodecaches", "patch")),
        ("DELETE", LEASES.path("l", "s"), {}, ("leases", "delete")),
        ("GET", "/version", {}, ("version", "get")),
    ],
)
def test_what_a_request_asks_for(
    method: str, path: str, query: dict[str, str], what: tuple[str, str]
) -> None:
    assert asked(method, path, query) == what
    assert REQUESTED.of(what[0]) == what[0]
