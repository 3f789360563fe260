from __future__ import annotations

from modelcache.cluster.resources import CACHED_MODELS, LEASES, NODES, Resource


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
