"""The claim of docs/affinity.md for namespaces that refuse host paths, on a real scheduler."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.fixtures import three_nodes
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

__all__ = ["three_nodes"]

PAGE = Path(__file__).parents[3] / "docs" / "affinity.md"
LABEL = "modelcache.dev/model.llama-3-8b"


def documents() -> list[dict[str, Any]]:
    """Every object that the page has, and a pod's part of a spec."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def test_a_pod_with_the_claim_waits_for_a_node_with_the_model(three_nodes: ControlPlane) -> None:
    cluster = three_nodes
    (volume,) = [each for each in documents() if each.get("kind") == "PersistentVolume"]
    (claim,) = [each for each in documents() if each.get("kind") == "PersistentVolumeClaim"]
    (part,) = [each for each in documents() if "kind" not in each]
    namespace = claim["metadata"]["namespace"]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.await_service_account(namespace)
    part["spec"]["containers"][0]["image"] = "engine:1"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine", "namespace": namespace},
        "spec": part["spec"],
    }
    path = f"/api/v1/namespaces/{namespace}/pods/engine"
    try:
        cluster.apply(volume, claim, pod)
        bound = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/llama-3-8b"
        eventually(lambda: cluster.api(bound)["status"]["phase"], lambda phase: phase == "Bound")

        def unscheduled() -> str:
            (condition,) = cluster.api(path)["status"]["conditions"]
            assert condition["reason"] == "Unschedulable"
            return str(condition["message"])

        # At first the scheduler may say that the claim is not bound yet.
        eventually(unscheduled, lambda said: "volume node affinity" in said, timeout=90)
        cluster.label_node("n2", {LABEL: "Ready"})
        eventually(
            lambda: cluster.api(path)["spec"].get("nodeName"), lambda name: name == "n2", timeout=90
        )
    finally:
        cluster.api(f"{path}?gracePeriodSeconds=0", "DELETE")
        cluster.api(f"/api/v1/persistentvolumes/{volume['metadata']['name']}", "DELETE")
        cluster.api(f"/api/v1/namespaces/{namespace}", "DELETE")
