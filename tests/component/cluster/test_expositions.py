"""What all five programs tell Prometheus, in a cluster: linted, and held against the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.metrics.contract import Program
from tests.support.agent import AgentProcess, DaemonProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.controller import ControllerProcess, controller_account
from tests.support.expositions import Values, check
from tests.support.hub import HubServer
from tests.support.tuner import TunerProcess
from tests.support.webhook import IMAGE, WebhookProcess, webhook_account

NODE = "node-of-metrics"
SIZE = 64 * 1024
MODEL: dict[str, Any] = {
    "apiVersion": "modelcache.dev/v1alpha1",
    "kind": "CachedModel",
    "metadata": {"name": "m"},
    "spec": {"source": {"uri": "hf://org/m"}, "pageCache": "Warm"},
}


class WarmerProcess(DaemonProcess):
    started = "warmer.started"


@pytest.fixture
def node(cluster: ControlPlane) -> Iterator[str]:
    cluster.plain_node(NODE)
    cluster.await_service_account("default")
    yield NODE
    cluster.kubectl("delete", "cachedmodel", "m", "--ignore-not-found")
    cluster.kubectl("delete", "pod", "reads", "--ignore-not-found", "--wait=false")
    cluster.kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo("org/m", {"model.safetensors": b"m" * SIZE})
        yield server


def pod(root: Path) -> dict[str, Any]:
    volume = {"name": "v", "hostPath": {"path": str(root / "models" / "m" / "current")}}
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


def test_the_agent_and_the_warmer(
    cluster: ControlPlane, node: str, hub: HubServer, tmp_path: Path
) -> None:
    kubeconfig = ("--kubeconfig", str(cluster.kubeconfig), "--node-name", node)
    flags = ("--cluster", *kubeconfig, "--nodes-at-once", "0", "--keep-free", "0")
    with AgentProcess(tmp_path / "root", None, *flags, env={"HF_ENDPOINT": hub.url}) as agent:

        def told() -> Values:
            exposition = eventually(
                lambda: agent.get("/metrics"),
                lambda text: "modelcache_disk_used_bytes " in text,
                what="its first look at the disk",
            )
            return check(exposition, Program.AGENT)

        cluster.apply(MODEL)
        agent.wait_ready("m")
        before = told()
        name = "modelcache_api_requests_total"
        assert before[name, "200", "cachedmodels", "list"] == 1
        assert before[name, "200", "cachedmodels", "watch"] >= 1
        assert before[name, "200", "nodes", "list"] == 1
        assert before["modelcache_model_uses_total", "m"] == 0
        assert before["modelcache_model_users", "m"] == 0
        tasks = {key[1] for key in before if key[0] == "modelcache_task_hung"}
        assert {"publish", "events", "watch-pods", "compile-caches", "reconcile"} <= tasks
        eventually(told, lambda found: found.get((name, "200", "nodes", "patch"), 0) >= 1)
        eventually(
            lambda: [k for k in told() if k[0] == name and k[2:] == ("nodecaches", "create")],
            lambda found: found == [(name, "201", "nodecaches", "create")],
            timeout=20,
        )
        cluster.apply(pod(tmp_path / "root"))
        used = eventually(
            told,
            lambda found: found["modelcache_model_uses_total", "m"] == 1,
            timeout=30,
            what="the pod's use, long before a minute is over",
        )
        assert used["modelcache_served_bytes_total", "m"] == SIZE
        took = used["modelcache_fetch_seconds_sum", "hf"]
        assert used["modelcache_saved_seconds_total", "m"] == pytest.approx(took, abs=0.001)
        users = eventually(told, lambda found: found["modelcache_model_users", "m"] == 1)
        assert ("modelcache_model_last_used_timestamp_seconds", "m") in users
        cluster.kubectl("delete", "pod", "reads", "--wait=false", "--namespace", "default")
        eventually(told, lambda found: found["modelcache_model_users", "m"] == 0, timeout=30)
        warmer = ("warm", "--daemon", "--root", str(tmp_path / "root"), "--memory", "1Mi")
        with WarmerProcess(*warmer) as running:
            running.wait_for_event("model.warm", model="m")
            found = check(running.get("/metrics"), Program.WARMER)
            assert found["modelcache_warmer_model_size_bytes", "m"] == SIZE
            assert found["modelcache_warmer_dropped_bytes_total", "unwanted"] == 0
            assert running.terminate() == 0
        assert agent.terminate() == 0


def test_the_controller_and_the_webhook(cluster: ControlPlane, node: str, tmp_path: Path) -> None:
    with ControllerProcess(controller_account(cluster), "metrics") as controller:
        controller.wait_leading()
        cluster.apply(MODEL)
        found = eventually(
            lambda: check(controller.get("/metrics"), Program.CONTROLLER),
            lambda found: ("modelcache_model_nodes", "m", "desired") in found,
            timeout=30,
        )
        requests = "modelcache_api_requests_total"
        assert found[requests, "200", "nodes", "watch"] >= 1
        assert any(key[0] == requests and key[2] == "leases" for key in found)
        assert found["modelcache_task_failures_total", "status"] == 0
        assert found["modelcache_controller_startup_taints_removed_total", "ready"] == 0
        assert controller.terminate() == 0
    flags = ("--root", "/r", "--image", IMAGE)
    with WebhookProcess(webhook_account(cluster), *flags) as webhook:
        found = eventually(
            lambda: check(webhook.get("/metrics"), Program.WEBHOOK),
            lambda found: ("modelcache_webhook_certificate_expiry_timestamp_seconds",) in found,
            timeout=30,
        )
        assert found["modelcache_webhook_reviews_total", "failed"] == 0
        assert found["modelcache_task_hung", "certificate"] == 0
        assert any(key[0] == requests and key[2] == "secrets" for key in found)
        assert webhook.terminate() == 0


def test_the_tuner(tmp_path: Path) -> None:
    with TunerProcess(f"path:{tmp_path}=1024", tmp_path / "state") as tuner:
        found = eventually(
            lambda: check(tuner.get("/metrics"), Program.TUNER),
            lambda found: ("modelcache_read_ahead_changes_total", "rule") in found,
        )
        assert found["modelcache_task_hung", "tune"] == 0
        assert tuner.terminate() == 0
