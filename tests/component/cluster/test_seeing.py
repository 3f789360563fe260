"""`status`, `top` and `explain` with `--cluster` against a real API server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.client import Client
from modelcache.cluster.events import Recorder
from tests.support.agent import modelcache
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.screens import Terminal

MIB = 1 << 20
CACHES = "/apis/modelcache.dev/v1alpha1/nodecaches"


def model(name: str, state: str, done: int = 64 * MIB, **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "bytesDone": done, "bytesTotal": 64 * MIB, **more}


def report(plane: ControlPlane, node: str, *models: dict[str, Any]) -> None:
    """What an agent of that node would have published."""
    if plane.find(f"{CACHES}/{node}") is None:
        kind = {"apiVersion": "modelcache.dev/v1alpha1", "kind": "NodeCache"}
        plane.api(CACHES, "POST", {**kind, "metadata": {"name": node}})
    disk = {"capacity": 2000 * MIB, "available": 900 * MIB, "used": 64 * MIB, "reserved": 0}
    status = {
        "agentVersion": "0.1.0",
        "root": "/cache",
        "models": models,
        "disk": {**disk, "taken": 100 * MIB, "budget": 1000 * MIB},
    }
    plane.api(f"{CACHES}/{node}/status", "PATCH", {"status": status}, "merge-patch+json")


def agent_pod(plane: ControlPlane, node: str, *, ready: bool) -> None:
    """The pod of that node's agent, as kubelet would tell of it."""
    name = f"agent-{node}"
    labels = {"app.kubernetes.io/name": "modelcache", "app.kubernetes.io/component": "agent"}
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "none"}]},
        }
    )
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/status"
    status = {"status": {"conditions": [condition]}}
    plane.api(path, "PATCH", status, "strategic-merge-patch+json")


@pytest.fixture
def fleet(cluster: ControlPlane) -> ControlPlane:
    """One node that is fine, one that fetches and fails, whose agent is down, and a new one."""
    for node in ("n1", "n2", "n3"):
        cluster.plain_node(node)
    failed = {"reason": "AuthFailed", "message": "the token is refused", "attempts": 4}
    report(cluster, "n1", model("a", "Ready"), model("b", "Ready"))
    report(cluster, "n2", model("a", "Downloading", 16 * MIB), model("b", "Failed", 0, **failed))
    agent_pod(cluster, "n1", ready=True)
    agent_pod(cluster, "n2", ready=False)
    agent_pod(cluster, "n3", ready=True)
    return cluster


def test_status_tells_of_all_nodes(fleet: ControlPlane) -> None:
    there = ("--cluster", "--kubeconfig", fleet.kubeconfig)
    ended = modelcache("status", *there)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].endswith("3 nodes, 2 agents ready")
    assert "2 of 4 models ready, 1 failing, 1 on the way" in ended.stdout
    nodes = ended.stdout.partition("NODE ")[2].splitlines()[1:4]
    assert [line.split()[:3] for line in nodes] == [
        ["n2", "0/2", "1"],
        ["n1", "2/2", "128.0"],
        ["n3", "0/0", "Up"],
    ]
    assert [line.split()[-1] for line in nodes] == ["Down", "Up", "Up"]
    models = ended.stdout.partition("MODEL ")[2].splitlines()[1:3]
    assert [line.split()[:2] for line in models] == [["b", "1/2"], ["a", "1/2"]]
    assert "b on n2: AuthFailed, 4 tries failed: the token is refused" in ended.stdout
    assert "n2: its agent is not ready" in ended.stdout
    assert "n3: its agent has reported nothing yet" in ended.stdout

    found = json.loads(modelcache("status", *there, "-o", "json").stdout)
    assert [(n["name"], n["agent"], n["toldBy"]) for n in found["nodes"]] == [
        ("n1", "Up", "Cluster"),
        ("n2", "Down", "Cluster"),
        ("n3", "Up", "Cluster"),
    ]
    assert found["nodes"][2]["status"] is None
    assert found["summary"]["wanted"] == 4


def test_who_may_not_see_pods_sees_nodes_and_who_may_not_is_told(
    fleet: ControlPlane, tmp_path: Path
) -> None:
    reader = fleet.kubeconfig_for("reader")
    ended = modelcache("status", "--cluster", "--kubeconfig", reader, "-o", "json")
    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    assert found["kind"] == "Error"
    assert "403" in found["message"]
    ended = modelcache("top", "--cluster", "--kubeconfig", reader)
    assert ended.returncode == 1
    assert "403" in ended.stderr
    rights = {"apiGroups": ["modelcache.dev"], "resources": ["nodecaches"], "verbs": ["list"]}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    name = {"metadata": {"name": "t-reads-nodecaches"}}
    role = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": name["metadata"]["name"],
    }
    fleet.apply(
        {**rbac, "kind": "ClusterRole", **name, "rules": [rights]},
        {
            **rbac,
            "kind": "ClusterRoleBinding",
            **name,
            "roleRef": role,
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}
            ],
        },
    )
    try:
        found = json.loads(
            modelcache("status", "--cluster", "--kubeconfig", reader, "-o", "json").stdout
        )
    finally:
        for kind in ("clusterroles", "clusterrolebindings"):
            fleet.api(
                f"/apis/rbac.authorization.k8s.io/v1/{kind}/{name['metadata']['name']}", "DELETE"
            )
    assert [(n["name"], n["agent"]) for n in found["nodes"]] == [
        ("n1", "Unknown"),
        ("n2", "Unknown"),
    ]


def test_top_follows_what_is_published(fleet: ControlPlane) -> None:
    with Terminal(width=100) as terminal:
        terminal.type(f"modelcache top --every 0.3 --cluster --kubeconfig {fleet.kubeconfig}")
        found = terminal.wait_for("2 agents ready")
        body = found.partition("MODEL ")[2].splitlines()[1:]
        assert body[0].split()[:3] == ["b", "n2", "Failed"]
        assert body[2].split()[:3] == ["a", "n2", "Downloading"]
        assert "25%" in body[2]
        # The first report may be old; from the second on there is a rate.
        failed = model("b", "Failed", 0, reason="AuthFailed")
        for done in (24, 32, 40):
            report(fleet, "n2", model("a", "Downloading", done * MIB), failed)
            share = f"{done * 100 // 64}%"
            found = terminal.wait_for(share)
        found = terminal.wait_for(lambda text: re.search(r"[0-9.]+ [KMG]iB/s", text) is not None)
        assert "left" in found
        terminal.press("v")
        found = terminal.wait_for("view: nodes")
        assert found.partition("NODE ")[2].splitlines()[1].split()[:4] == ["n2", "0/2", "1", "1"]
        terminal.press("v")
        found = terminal.wait_for("view: models")
        assert found.partition("MODEL ")[2].splitlines()[1].split()[:3] == ["b", "1/2", "1"]
        agent_pod(fleet, "n2", ready=True)
        terminal.wait_for("3 agents ready")
        fleet.api(f"{CACHES}/n2", "DELETE")
        terminal.wait_for("2 of 2 models ready")
        fleet.stop_api_server()
        terminal.wait_for("not watched: ")
        assert "2 of 2 models ready" in terminal.text, "what was known stays"
        fleet.start_api_server()
        terminal.wait_for("not watched: ", 60, gone=True)
        terminal.press("q")
        terminal.wait_for_prompt()


def test_explain_tells_of_all_nodes_and_what_happened(fleet: ControlPlane, admin: Client) -> None:
    there = ("--cluster", "--kubeconfig", fleet.kubeconfig)
    ended = modelcache("explain", "none", *there)
    assert ended.returncode == 4
    assert "there is no CachedModel none at https://" in ended.stderr
    told = modelcache("explain", "b", *there).stdout
    assert told.startswith("There is no CachedModel b any more")

    fleet.apply(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": "b"},
            "spec": {"source": {"uri": "https://models.example.com/b/w?sig=secret"}, "priority": 7},
        }
    )
    compiled = {"name": "fast", "model": "b", "state": "Missing"}
    patch = {"status": {"compileCaches": [compiled, {**compiled, "name": "c", "model": "a"}]}}
    fleet.api(f"{CACHES}/n1/status", "PATCH", patch, "merge-patch+json")
    recorder = Recorder(admin, "modelcache.dev/agent", "n2")
    node = {"apiVersion": "v1", "kind": "Node", "name": "n2"}
    for name in ("a", "b"):
        related = {"apiVersion": "modelcache.dev/v1alpha1", "kind": "CachedModel", "name": name}
        note = f"{name}: the token is refused"
        recorder.record(node, "Warning", "ModelAuthFailed", "Fetch", note, related)
    strangers = Recorder(admin, "strangers.example.com", "n2")
    strangers.record(node, "Warning", "Strange", "Fetch", "b: not ours", related)
    recorder.cycle()
    strangers.cycle()
    told = modelcache("explain", "b", *there).stdout
    lines = told.splitlines()
    assert lines[0] == "b is ready on 1 of the 2 nodes that it selects."
    assert lines[2].startswith("wanted:   with priority 7, from https://models.example.com/b/w")
    assert "secret" not in told
    why = "Failed, AuthFailed, 4 tries failed: the token is refused; its agent is not ready"
    assert f"not on:   n2: {why}" in lines
    assert "ready on: n1" in lines
    assert "compiled: fast: Missing on 1" in lines
    (lately,) = (line for line in lines if line.startswith("lately:"))
    assert lately.endswith("ago, Node n2: ModelAuthFailed: b: the token is refused")
    assert "Strange" not in told
    found = json.loads(modelcache("explain", "b", *there, "-o", "json").stdout)
    assert [event["about"] for event in found["events"]] == ["Node n2"]
    assert {each["node"]: each["state"] for each in found["nodes"]} == {
        "n1": "Ready",
        "n2": "Failed",
    }
