"""The test cluster itself: what the other tests rely on."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster.fixtures import REPOSITORY
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

TAINT = {"key": "modelcache.dev/not-ready", "effect": "NoSchedule"}
PODS = "/api/v1/namespaces/default/pods"
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "modelcache.dev/model.a", "operator": "In", "values": ["Ready"]}
                    ]
                }
            ]
        }
    }
}


def deployment(name: str, replicas: int, **pod: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "none"}], **pod},
            },
        },
    }


def pods(plane: ControlPlane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.api(PODS)["items"]
    return found


def refused(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions)


def test_the_crds_apply_and_explain_themselves(control_plane: ControlPlane) -> None:
    # The API server puts its OpenAPI document together a little later.
    said = eventually(lambda: control_plane.kubectl("explain", "cachedmodel.spec.source"))
    assert "Globs of the files that are wanted" in said
    assert "cachedmodels" in control_plane.kubectl("api-resources", "--api-group=modelcache.dev")


def test_the_scheduler_binds_to_the_node_that_is_labelled(three_nodes: ControlPlane) -> None:
    cluster = three_nodes
    cluster.apply(deployment("wants-a", 2, affinity=AFFINITY))
    cluster.watch_until(PODS, lambda pods: len(pods) == 2 and all(map(refused, pods)))
    cluster.label_node("n2", {"modelcache.dev/model.a": "Ready"})
    running = cluster.watch_until(
        PODS, lambda pods: [pod["status"]["phase"] for pod in pods] == ["Running"] * 2
    )
    assert [pod["spec"]["nodeName"] for pod in running] == ["n2", "n2"]


def test_a_hollow_node_registers_itself_with_labels_and_taints(cluster: ControlPlane) -> None:
    taint = "modelcache.dev/not-ready=:NoSchedule"
    node = cluster.hollow_node("fresh", {"pool": "gpu"}, [taint])
    try:
        assert cluster.node_labels("fresh")["pool"] == "gpu"
        # The cluster's own taint, until the node is ready, comes and goes.
        eventually(
            lambda: cluster.api("/api/v1/nodes/fresh")["spec"].get("taints"),
            lambda taints: taints == [TAINT],
            what="the taint alone",
        )
        who = {entry["user"]["username"] for entry in cluster.requests(verb="create", name="fresh")}
        assert who <= {"system:node:fresh"}
    finally:
        cluster.remove_hollow_node(node)


def test_a_killed_api_server_comes_back_with_what_it_had(cluster: ControlPlane) -> None:
    cluster.plain_node("kept", {"a": "b"})
    cluster.stop_api_server()
    with pytest.raises(urllib.error.URLError):
        cluster.api("/api/v1/nodes/kept")
    cluster.start_api_server()
    assert cluster.node_labels("kept") == {"a": "b"}


def test_a_hanging_api_server_goes_on_where_it_was(cluster: ControlPlane) -> None:
    cluster.plain_node("kept")
    silence = pytest.raises(urllib.error.URLError, match="timed out")
    with cluster.hanging_api_server(), silence:
        cluster.open("/api/v1/nodes/kept", timeout=0.5)
    assert cluster.find("/api/v1/nodes/kept")


def test_requests_are_counted(cluster: ControlPlane) -> None:
    cluster.plain_node("counted")
    before = len(cluster.requests(user="admin", verb="patch", resource="nodes", name="counted"))
    cluster.label_node("counted", {"x": "y"})
    eventually(
        lambda: cluster.requests(user="admin", verb="patch", resource="nodes", name="counted"),
        lambda found: len(found) == before + 1,
    )


def test_rights_are_those_of_the_user_and_of_the_service_account(cluster: ControlPlane) -> None:
    def may(kubeconfig: Path, *what: str) -> bool:
        said = cluster.kubectl("auth", "can-i", *what, kubeconfig=kubeconfig, check=False)
        return "yes" in said.split()

    operator = cluster.kubeconfig_for("ann", ["system:masters", "operators"])
    visitor = cluster.kubeconfig_for("bob", ["visitors"])
    agent = cluster.service_account_kubeconfig("default", "default")
    assert may(operator, "delete", "nodes")
    assert not may(visitor, "get", "nodes")
    assert not may(agent, "get", "nodes")
    cluster.kubectl(
        *("create", "clusterrolebinding", "test-view", "--clusterrole=system:node-reader"),
        *("--group=visitors", "--serviceaccount=default:default"),
    )
    cluster.kubectl("create", "clusterrole", "system:node-reader", "--verb=get", "--resource=nodes")
    try:
        eventually(lambda: may(visitor, "get", "nodes") and may(agent, "get", "nodes"))
        assert not may(visitor, "delete", "nodes")
    finally:
        cluster.kubectl("delete", "clusterrolebinding/test-view", "clusterrole/system:node-reader")


_OTHER_PROCESS = """
import sys
from tests.support.cluster.binaries import find_binaries
from tests.support.cluster.fixtures import REPOSITORY
from tests.support.cluster.plane import ControlPlane

with ControlPlane(find_binaries()) as plane:
    plane.hollow_node("n1")
    print(plane.folder, *plane.pids(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.heavy
@pytest.mark.parametrize("end", ["done", "killed"])
def test_the_programs_end_with_who_started_them(bare_control_plane: ControlPlane, end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        folder, *programs = process.stdout.readline().split()
        assert len(programs) == 5
        if end == "killed":
            process.kill()
        process.stdin.close()
    for program in programs:
        eventually(lambda program=program: not Path(f"/proc/{program}").exists())  # type: ignore[misc]
    if end == "killed":
        # What it could not remove the next one does.
        ControlPlane(bare_control_plane.binaries).close()
    assert not Path(folder).exists()
