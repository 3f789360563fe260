"""pytest's fixtures of the test cluster. A conftest imports those that its tests want."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster.binaries import find_binaries, why_none
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

REPOSITORY = Path(__file__).parents[3]
NAMESPACE = "modelcache-system"

_OURS = ("cachedmodels", "compilecaches", "nodecaches")
_PLACES = ("default", NAMESPACE)
_WORKLOADS = ("deployments", "daemonsets", "statefulsets", "replicasets")
"""Whatever makes pods, and those that make these first."""


@pytest.fixture(scope="session")
def bare_control_plane() -> Iterator[ControlPlane]:
    """The control plane, without anything of ours."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(why_none())
    with ControlPlane(binaries) as plane:
        yield plane


@pytest.fixture(scope="session")
def control_plane(bare_control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our CRDs and our namespace."""
    plane = bare_control_plane
    plane.kubectl("apply", "-k", REPOSITORY / "daemonset" / "crds")
    for kind in _OURS:
        eventually(lambda kind=kind: plane.api(f"/apis/modelcache.dev/v1alpha1/{kind}"))  # type: ignore[misc]
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    plane.await_service_account(NAMESPACE)
    return plane


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane for one test: what is ours, and what tests make, is gone after it.

    Hollow nodes stay, since they take seconds to be Ready, but as they were at first.
    """
    yield control_plane
    clear(control_plane)


def clear(plane: ControlPlane) -> None:
    """Take away what is ours and what tests have made, after one of them."""
    plane.recover()
    hollow = {node.name for node in plane.hollow}
    others = ",".join(f"metadata.name!={name}" for name in hollow)
    for path in (
        *(f"/apis/modelcache.dev/v1alpha1/{kind}" for kind in _OURS),
        *(f"/apis/apps/v1/namespaces/{place}/{kind}" for kind in _WORKLOADS for place in _PLACES),
        *(f"/api/v1/namespaces/{place}/pods?gracePeriodSeconds=0" for place in _PLACES),
        f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases",
        f"/api/v1/nodes?fieldSelector={others}",
    ):
        plane.api(path, "DELETE")
    nodes = {node["metadata"]["name"]: node for node in plane.api("/api/v1/nodes")["items"]}
    for kubelet in [*plane.hollow]:
        if kubelet.running and kubelet.name in nodes:
            _as_at_first(plane, nodes[kubelet.name])
        else:
            plane.remove_hollow_node(kubelet)
    for place in _PLACES:
        plane.watch_until(f"/api/v1/namespaces/{place}/pods", lambda pods: not pods)
    for place in ("default", "kube-system"):
        plane.api(f"/apis/events.k8s.io/v1/namespaces/{place}/events", "DELETE")


@pytest.fixture
def three_nodes(cluster: ControlPlane) -> ControlPlane:
    """The control plane with three hollow nodes that are Ready: n1, n2 and n3."""
    names = ("n1", "n2", "n3")
    there = {node.name for node in cluster.hollow}
    for name in names:
        if name not in there:
            cluster.start_hollow_node(name)
    cluster.await_ready(*names)
    return cluster


def _as_at_first(plane: ControlPlane, node: dict[str, Any]) -> None:
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    labels = node["metadata"].get("labels", {})
    changed = {label: None for label in labels if "kubernetes.io/" not in label}
    patch = {"metadata": {"labels": changed}, "spec": {"unschedulable": None, "taints": None}}
    plane.api(path, "PATCH", patch, "merge-patch+json")
    ours = ("ModelCacheReady", "ModelCacheDiskHealthy")
    conditions = [{"$patch": "delete", "type": each} for each in ours]
    patch = {"status": {"conditions": conditions}}
    plane.api(f"{path}/status", "PATCH", patch, "strategic-merge-patch+json")
