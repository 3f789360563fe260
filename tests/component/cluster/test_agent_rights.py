"""The agent's whole work with the rights of the manifests, and what it would like to do besides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import AgentProcess
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import HubServer
from tests.support.manifests import FOLDER, load

ACCOUNT = "modelcache-agent"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"


@pytest.fixture
def kubeconfig(cluster: ControlPlane) -> Iterator[Path]:
    """What the agent's pod has."""
    documents = load(FOLDER / "base" / "agent-rbac.yaml")
    # Where a server of version 1.20 wants the Events that newer ones want in `default`.
    for document in [each for each in documents if each["metadata"].get("namespace") == "default"]:
        documents.append({**document, "metadata": {"name": ACCOUNT, "namespace": "kube-system"}})
    cluster.apply(*documents)
    yield cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    cluster.kubectl("delete", "--wait=false", "-f", "-", stdin=everything)


def test_nothing_that_it_does_is_forbidden(
    cluster: ControlPlane, kubeconfig: Path, tmp_path: Path
) -> None:
    node = cluster.plain_node("n")
    before = len(cluster.requests(user=USER))
    with HubServer() as hub:
        hub.add_repo("org/a", {"model.safetensors": bytes(1000)})
        flags = ("--cluster", "--kubeconfig", str(kubeconfig), "--node-name", "n")
        environment = {"HF_ENDPOINT": hub.url}
        with AgentProcess(tmp_path, None, *flags, env=environment) as agent:
            cluster.apply(
                {
                    "apiVersion": "modelcache.dev/v1alpha1",
                    "kind": "CachedModel",
                    "metadata": {"name": "a"},
                    "spec": {"source": {"uri": "hf://org/a"}},
                }
            )
            eventually(
                lambda: cluster.node_labels("n").get("modelcache.dev/model.a"),
                lambda seen: seen == "Ready",
                timeout=60,
                what="the label",
            )
            cache = cluster.eventually_there("/apis/modelcache.dev/v1alpha1/nodecaches/n")
            assert cache["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]

            def did() -> set[tuple[str, str, str]]:
                return {
                    (
                        each["verb"],
                        each["objectRef"]["resource"],
                        each["objectRef"].get("subresource", ""),
                    )
                    for each in cluster.requests(user=USER)[before:]
                    if each["responseStatus"]["code"] < 400
                }

            work = {
                ("list", "cachedmodels", ""),
                ("list", "nodes", ""),
                ("list", "pods", ""),
                ("patch", "nodes", ""),
                ("patch", "nodes", "status"),
                ("create", "nodecaches", ""),
                ("patch", "nodecaches", "status"),
                ("create", "leases", ""),
                ("delete", "leases", ""),
                ("create", "events", ""),
            }
            eventually(did, lambda seen: seen >= work, timeout=30, what="all of its work")
            cluster.kubectl("delete", "cachedmodel", "a")
            eventually(
                lambda: "modelcache.dev/model.a" in cluster.node_labels("n"),
                lambda seen: not seen,
                timeout=60,
                what="the label's end",
            )
            agent.terminate()
    # A watch is noted when it has ended.
    watched = {("watch", kind, "") for kind in ("cachedmodels", "nodes", "pods")}
    eventually(did, lambda seen: seen >= watched, timeout=30, what="the watches")
    refused = [
        (each["verb"], each["requestURI"])
        for each in cluster.requests(user=USER)[before:]
        if each["responseStatus"]["code"] in (401, 403)
    ]
    assert refused == []
