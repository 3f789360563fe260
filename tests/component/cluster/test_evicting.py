"""Room for an important model on a real node of a cluster: who uses what, labels, events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import AgentProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import HubServer

NODE = "node-of-evictions"
MIB = 1 << 20


@pytest.fixture
def node(cluster: ControlPlane) -> Iterator[str]:
    cluster.plain_node(NODE)
    cluster.await_service_account("default")
    yield NODE
    cluster.kubectl("delete", "cachedmodel", "low", "high", "--ignore-not-found")
    cluster.kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")


def model(name: str, priority: int) -> dict[str, Any]:
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": name},
        "spec": {"source": {"uri": f"hf://org/{name}"}, "priority": priority},
    }


def pod(root: Path) -> dict[str, Any]:
    """One that mounts the model `low`."""
    path = root / "models" / "low" / "current"
    volume = {"name": "v", "hostPath": {"path": str(path)}}
    container = {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/m"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reads", "namespace": "default"},
        "spec": {
            "nodeName": NODE,
            "containers": [container],
            "volumes": [volume],
            "terminationGracePeriodSeconds": 0,
        },
    }


def events(cluster: ControlPlane, reason: str) -> list[dict[str, Any]]:
    found = cluster.api("/apis/events.k8s.io/v1/events")["items"]
    mine = (each for each in found if each["regarding"]["name"] == NODE)
    return [each for each in mine if each["reason"] == reason]


def test_a_pod_keeps_its_model_and_then_the_label_goes_before_the_model(
    cluster: ControlPlane, node: str, tmp_path: Path
) -> None:
    flags = (
        *("--cluster", "--kubeconfig", str(cluster.kubeconfig), "--node-name", node),
        *("--capacity", "10Mi", "--keep-free", "0", "--nodes-at-once", "0"),
    )
    with HubServer() as hub:
        for name in ("low", "high"):
            hub.add_repo(f"org/{name}", {"model.safetensors": name.encode() * 2 * MIB})
        environment = {"HF_ENDPOINT": hub.url}
        with AgentProcess(tmp_path, None, *flags, env=environment) as agent:

            def labels() -> list[str]:
                known = cluster.node_labels(node)
                return [each for each in ("low", "high") if f"modelcache.dev/model.{each}" in known]

            cluster.apply(pod(tmp_path))
            cluster.apply(model("low", 1))
            eventually(labels, ["low"].__eq__, timeout=60)
            cluster.apply(model("high", 5))
            agent.wait_failed("high")
            (blocked,) = eventually(
                lambda: events(cluster, "EvictionBlocked"), bool, timeout=60, what="the event"
            )
            assert "low has 6.0 MiB: pod default/reads mounts it" in blocked["note"]
            assert blocked["related"]["name"] == "high"
            assert labels() == ["low"]
            cluster.kubectl("delete", "pod", "reads", "--wait=false", "--namespace", "default")
            eventually(labels, ["high"].__eq__, timeout=90, what="the other's label")
            (evicted,) = eventually(
                lambda: events(cluster, "Evicted"), bool, timeout=60, what="the event"
            )
            assert evicted["note"].endswith("freed: priority 1, lower than 5")
            told = [e for e in agent.events if e["event"] in ("node.labelled", "model.evicted")]
            gone = next(i for i, e in enumerate(told) if e["event"] == "model.evicted")
            assert told[gone - 1]["event"] == "node.labelled"
            assert told[gone - 1]["labels"] == 0, "the label had gone before"
            exposed = agent.get("/metrics")
            assert 'modelcache_evictions_total{rule="LowerPriority"} 1.0' in exposed
            freed = 'modelcache_evicted_bytes_total{rule="LowerPriority"} '
            (line,) = (each for each in exposed.splitlines() if each.startswith(freed))
            assert float(line.removeprefix(freed)) >= 6 * MIB
            short = agent.model("low")
            assert (short["state"], short["reason"]) == ("Failed", "InsufficientDisk")
