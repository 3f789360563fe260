"""The webhook gives pods their compile cache, on the real API server: which takes what it makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.component.cluster.test_webhook import (
    PODS,
    Start,
    account,
    bundle,
    configure,
    ready,
    start,
    works,
)
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.webhook import IMAGE

__all__ = ["account", "start"]  # fixtures

DIGEST = f"sha256:{'a' * 64}"
CACHE = {
    "apiVersion": "modelcache.dev/v1alpha1",
    "kind": "CompileCache",
    "metadata": {"name": "llama"},
    "spec": {
        "model": "llama",
        "engine": {"name": "vllm", "image": f"registry.example/vllm@{DIGEST}"},
        "bundles": {"uri": "oci://registry.example/caches"},
        "publishers": [{"namespace": "default", "serviceAccount": "default"}],
    },
}


def asking(**spec: Any) -> dict[str, Any]:
    """A pod that asks for a compile cache and for a model."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "compiling",
            "labels": {"modelcache.dev/inject": "true"},
            "annotations": {
                "modelcache.dev/compile-cache": "llama",
                "modelcache.dev/model": "llama",
                "modelcache.dev/compile-user": "1000",
            },
        },
        "spec": {"containers": [{"name": "engine", "image": f"vllm@{DIGEST}"}], **spec},
    }


def would_be(cluster: ControlPlane, pod: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The pod as the server would make it, and the warnings that come with it."""
    with cluster.open(f"{PODS}?dryRun=All", "POST", pod) as answer:
        return json.loads(answer.read()), answer.headers.get_all("Warning") or []


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    everyone = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    return {each["name"]: each for each in everyone}


@pytest.fixture
def injecting(cluster: ControlPlane, start: Start) -> ControlPlane:
    """A cluster whose webhook knows the compile cache, and what sidecars are there."""
    cluster.apply(CACHE)
    webhook = start("--image", IMAGE)
    ready(webhook)
    configure(cluster, webhook.hook)
    works(cluster)
    eventually(
        lambda: containers(would_be(cluster, asking())[0]),
        lambda found: "modelcache-compile-capture" in found,
        what="a pod with a sidecar",
    )
    return cluster


def test_sidecars_are_what_the_server_knows(injecting: ControlPlane) -> None:
    minor = int(injecting.api("/version")["gitVersion"].split(".")[1])
    found = eventually(
        lambda: would_be(injecting, asking())[0]["spec"],
        # Until its version is known, all servers take an ordinary one.
        lambda spec: (len(spec["containers"]) == 1) == (minor >= 29),
        what="the sidecar of this server",
    )
    native = [each for each in found["initContainers"] if each.get("restartPolicy") == "Always"]
    assert len(native) == (minor >= 29)


def test_the_server_takes_the_pod_as_it_is_made(injecting: ControlPlane) -> None:
    found, warnings = would_be(injecting, asking())
    assert warnings == []
    assert {each["name"] for each in found["spec"]["initContainers"]} >= {
        "modelcache-compile-seed",
        "modelcache-link",
    }
    assert containers(found)["modelcache-compile-seed"]["image"] == IMAGE
    env = {e["name"]: e.get("value") for e in containers(found)["engine"]["env"]}
    assert env["VLLM_CACHE_ROOT"].startswith("/var/cache/modelcache")
    # The server has filled in nothing that would be changed a second time.
    again, _ = would_be(injecting, {**asking(), "spec": found["spec"]})
    assert again["spec"] == found["spec"]


def test_a_guaranteed_pod_stays_so(injecting: ControlPlane) -> None:
    limits = {"limits": {"cpu": "4", "memory": "8Gi"}}
    engine = {"name": "engine", "image": f"vllm@{DIGEST}", "resources": limits}
    found, _ = would_be(injecting, asking(containers=[engine]))
    assert found["status"]["qosClass"] == "Guaranteed"


def test_a_pod_of_restricted_takes_what_it_may_have(injecting: ControlPlane) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "strict",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    injecting.apply(namespace)
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    engine = {"name": "engine", "image": f"vllm@{DIGEST}", "securityContext": security}
    given = asking(containers=[engine])
    path = "/api/v1/namespaces/strict/pods?dryRun=All"
    injecting.await_service_account("strict")

    def told() -> tuple[dict[str, Any], str]:
        with injecting.open(path, "POST", given) as answer:
            return json.loads(answer.read()), " ".join(answer.headers.get_all("Warning") or [])

    # A moment old: where the API server doesn't tell of it in time, the worst is assumed.
    found, warnings = eventually(told, lambda answer: "can't be found out" not in answer[1])
    assert "restricted" in warnings
    assert "modelcache-compile-capture" in containers(found)
    assert not [volume for volume in found["spec"]["volumes"] if "hostPath" in volume]


def test_an_ordinary_sidecar_where_that_is_asked_for(cluster: ControlPlane, start: Start) -> None:
    cluster.apply(CACHE)
    webhook = start("--image", IMAGE, "--sidecars", "ordinary")
    ready(webhook)
    configure(cluster, webhook.hook)
    works(cluster)
    found = eventually(
        lambda: would_be(cluster, asking())[0],
        lambda pod: "modelcache-compile-capture" in containers(pod),
        what="an injected pod",
    )
    assert [each["name"] for each in found["spec"]["containers"]] == [
        "engine",
        "modelcache-compile-capture",
    ]
    assert bundle(cluster)
