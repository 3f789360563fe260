"""`modelcache cleanup` on a real API server, with the rights that its Job has and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.cleaning import Cleaning
from modelcache.cluster.client import Client
from modelcache.errors import ClusterError, ModelCacheError
from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from modelcache.settings import STARTUP_TAINT
from tests.support.agent import modelcache
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.manifests import FOLDER, objects

OUR_LABELS = {"modelcache.dev/model.a": "Ready", "modelcache.dev/revision.a": "0123456789ab"}
FOREIGN_LABELS = {"team": "blue", "modelcache.dev/node": "true"}
OUR_TAINT = {"key": STARTUP_TAINT, "effect": "NoSchedule"}
FOREIGN_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.fixture
def kubeconfig(cluster: ControlPlane) -> Iterator[Path]:
    """What the Job's pod has: its ServiceAccount's token."""
    rights = [each for each in objects(FOLDER / "cleanup") if each["kind"] != "Job"]
    cluster.apply(*rights)
    yield cluster.service_account_kubeconfig(NAMESPACE, "modelcache-cleanup")
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": rights})
    cluster.kubectl("delete", "--wait=false", "-f", "-", stdin=everything)
    assert pods(cluster) == []


def cleanup(
    kubeconfig: Path, *flags: str, env: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any], str]:
    done = modelcache("cleanup", "--kubeconfig", kubeconfig, "-o", "json", *flags, env=env)
    return done.returncode, json.loads(done.stdout), done.stderr


def asked(plane: ControlPlane, since: int = 0, **what: str) -> list[dict[str, Any]]:
    """What the cleanup asked of the API server, since so many requests."""
    user = f"system:serviceaccount:{NAMESPACE}:modelcache-cleanup"
    return plane.requests(user=user, **what)[since:]


@pytest.fixture
def before(cluster: ControlPlane) -> int:
    """How many requests cleanups had made before this test."""
    return len(asked(cluster))


def condition(type_: str) -> dict[str, Any]:
    return {
        "type": type_,
        "status": "True",
        "reason": "AllReady",
        "message": "",
        "lastTransitionTime": "2026-11-21T05:00:00Z",
    }


OURS = (READY_CONDITION, DISK_CONDITION)
OF_A_NODE = [condition(each) for each in ("GPUReady", *OURS)]


def make_used_node(plane: ControlPlane, name: str) -> None:
    """A node with everything of ours on it, beside things of others."""
    plane.api(
        "/api/v1/nodes",
        "POST",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {**OUR_LABELS, **FOREIGN_LABELS},
                "annotations": {"a": "b"},
            },
            "spec": {"taints": [FOREIGN_TAINT, OUR_TAINT]},
        },
    )
    plane.api(
        f"/api/v1/nodes/{name}/status",
        "PATCH",
        {"status": {"conditions": OF_A_NODE}},
        "strategic-merge-patch+json",
    )
    plane.api(
        "/apis/modelcache.dev/v1alpha1/nodecaches",
        "POST",
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "NodeCache",
            "metadata": {"name": name},
        },
    )


def nodes(plane: ControlPlane) -> int:
    return len(plane.api("/api/v1/nodes")["items"])


def ours_on(plane: ControlPlane) -> dict[str, list[str]]:
    """What is ours on the nodes, by node: nothing is what we want to see."""
    found = {}
    for node in plane.api("/api/v1/nodes")["items"]:
        labels = [key for key in node["metadata"].get("labels", {}) if key in OUR_LABELS]
        taints = [each["key"] for each in node["spec"].get("taints", ()) if each == OUR_TAINT]
        conditions = [each["type"] for each in node["status"].get("conditions", ())]
        conditions = [each for each in conditions if each in OURS]
        if labels or taints or conditions:
            found[node["metadata"]["name"]] = [*labels, *taints, *conditions]
    return found


def assert_foreign_things_are_there(plane: ControlPlane, name: str) -> None:
    node = plane.api(f"/api/v1/nodes/{name}")
    assert FOREIGN_LABELS.items() <= node["metadata"]["labels"].items()
    assert node["metadata"]["annotations"]["a"] == "b"
    assert FOREIGN_TAINT in node["spec"]["taints"]
    assert "GPUReady" in [each["type"] for each in node["status"]["conditions"]]


def test_everything_of_ours_goes_and_nothing_else(
    cluster: ControlPlane, kubeconfig: Path, before: int
) -> None:
    for name in ("used-1", "used-2"):
        make_used_node(cluster, name)
    cluster.plain_node("unused", FOREIGN_LABELS)
    assert len(ours_on(cluster)) == 2
    code, said, _ = cleanup(kubeconfig)
    assert code == 0
    assert (said["nodes"], said["changed"], said["nodeCaches"]) == (nodes(cluster), 2, 2)
    assert ours_on(cluster) == {}
    for name in ("used-1", "used-2"):
        assert_foreign_things_are_there(cluster, name)
    patched = {
        each["objectRef"]["name"] for each in asked(cluster, before) if each["verb"] == "patch"
    }
    assert patched == {"used-1", "used-2"}
    assert cluster.api("/apis/modelcache.dev/v1alpha1/nodecaches")["items"] == []


def test_again_it_writes_nothing(cluster: ControlPlane, kubeconfig: Path) -> None:
    make_used_node(cluster, "used")
    assert cleanup(kubeconfig)[0] == 0
    before = len(asked(cluster))
    code, said, _ = cleanup(kubeconfig)
    assert code == 0
    assert (said["changed"], said["nodeCaches"]) == (0, 0)
    verbs = {each["verb"] for each in asked(cluster, before)}
    assert verbs == {"list", "delete"}  # of the agents, which are not there


def test_it_pages_through_many_nodes(cluster: ControlPlane, kubeconfig: Path, before: int) -> None:
    for number in range(1100):
        cluster.plain_node(f"n-{number:04}", OUR_LABELS if number % 100 == 0 else {})
    code, said, told = cleanup(kubeconfig)
    assert code == 0, told
    assert (said["nodes"], said["changed"]) == (nodes(cluster), 11)
    pages = [
        each
        for each in asked(cluster, before)
        if (each["verb"], each["objectRef"]["resource"]) == ("list", "nodes")
    ]
    assert len(pages) == 6  # two looks at three pages
    assert all("limit=500" in each["requestURI"] for each in pages)
    assert ours_on(cluster) == {}


def workloads(plane: ControlPlane) -> None:
    """The agents and the controller, as far as their labels and names go; hollow nodes run them."""
    for kind, name, component in (
        ("DaemonSet", "modelcache-agent", "agent"),
        ("Deployment", "modelcache-controller", "controller"),
    ):
        labels = {"app.kubernetes.io/name": "modelcache", "app.kubernetes.io/component": component}
        plane.apply(
            {
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "containers": [{"name": "c", "image": "none"}],
                            "tolerations": [{"operator": "Exists"}],
                            "terminationGracePeriodSeconds": 1,
                        },
                    },
                },
            }
        )


def pods(plane: ControlPlane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.api(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return found


def test_the_agents_go_before_their_labels(
    three_nodes: ControlPlane, kubeconfig: Path, before: int
) -> None:
    cluster = three_nodes
    for name in ("n1", "n2"):
        cluster.label_node(name, OUR_LABELS)
    workloads(cluster)

    def running() -> list[str]:
        return [each["status"]["phase"] for each in pods(cluster)]

    eventually(running, lambda seen: seen == ["Running"] * 4, timeout=60, what="the pods")
    assert cleanup(kubeconfig)[0] == 0
    assert pods(cluster) == []
    for kind, name in (("daemonsets", "agent"), ("deployments", "controller")):
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}/modelcache-{name}"
        assert cluster.find(path) is None
    done = [
        (each["verb"], each["objectRef"]["resource"])
        for each in asked(cluster, before)
        if each["verb"] != "list"
    ]
    assert done == [
        ("delete", "daemonsets"),
        ("delete", "deployments"),
        ("patch", "nodes"),
        ("patch", "nodes"),
    ]
    gone = max(
        each["stageTimestamp"]
        for each in cluster.requests(verb="delete", resource="pods")
        if each["objectRef"]["namespace"] == NAMESPACE
    )
    (first, _) = (
        each["requestReceivedTimestamp"]
        for each in asked(cluster, before)
        if each["verb"] == "patch"
    )
    assert gone < first


def test_a_pod_that_doesnt_end_is_not_waited_for_for_ever(
    cluster: ControlPlane, kubeconfig: Path
) -> None:
    cluster.plain_node("used", OUR_LABELS)
    labels = {"app.kubernetes.io/name": "modelcache", "app.kubernetes.io/component": "agent"}
    metadata = {"name": "stuck", "namespace": NAMESPACE, "labels": labels}
    pod = {"containers": [{"name": "c", "image": "none"}]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})
    try:
        code, _, told = cleanup(kubeconfig, "--agents-end", "1s")
        assert code == 0
        assert "went on though 1 pods have not ended: stuck" in told
        assert ours_on(cluster) == {}
    finally:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/stuck?gracePeriodSeconds=0"
        cluster.api(path, "DELETE")


def test_what_comes_back_all_the_time_is_told(
    cluster: ControlPlane, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.plain_node("n", OUR_LABELS)
    real = Client.patch

    def patch_and_put_back(*given: Any, **named: Any) -> Any:
        done = real(*given, **named)
        cluster.label_node("n", OUR_LABELS)
        return done

    monkeypatch.setattr(Client, "patch", patch_and_put_back)
    with pytest.raises(ModelCacheError, match="does an agent still run"):
        cleaning(kubeconfig).clean()


def test_a_conflict_is_met_with_another_look(
    cluster: ControlPlane, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_used_node(cluster, "n")
    real = Client.patch
    taints = [{"key": "new", "effect": "NoSchedule"}, FOREIGN_TAINT, OUR_TAINT]

    def patch_after_somebody_else(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(Client, "patch", real)
        patch = {"spec": {"taints": taints}}
        cluster.api("/api/v1/nodes/n", "PATCH", patch, "merge-patch+json")
        return real(*given, **named)

    monkeypatch.setattr(Client, "patch", patch_after_somebody_else)
    assert cleaning(kubeconfig).clean().changed == 1
    assert ours_on(cluster) == {}
    assert [each["key"] for each in cluster.api("/api/v1/nodes/n")["spec"]["taints"]][:1] == ["new"]


def cleaning(kubeconfig: Path) -> Cleaning:
    client = Client.connect(kubeconfig)
    return Cleaning(
        client,
        startup_taints=(STARTUP_TAINT,),
        conditions=OURS,
        sleep=lambda _: None,
    )


def test_without_the_rights_it_says_so(cluster: ControlPlane, kubeconfig: Path) -> None:
    make_used_node(cluster, "used")
    powerless = cluster.service_account_kubeconfig("default", "default")
    with pytest.raises(ClusterError, match="nodes is forbidden"):
        cleaning(powerless).clean()
    assert len(ours_on(cluster)) == 1
