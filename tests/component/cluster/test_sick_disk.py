"""A disk that can't be written, as the node says it to a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.service.reporting import DISK_CONDITION
from tests.support.agent import AgentProcess
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import HubServer
from tests.support.manifests import FOLDER, load
from tests.support.sickdisk import sick_disk

pytestmark = pytest.mark.root

ACCOUNT = "modelcache-agent"
NODE = "sick"
LABEL = "modelcache.dev/model.a"


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


def test_the_labels_go_and_come_back_with_the_disk(
    cluster: ControlPlane, kubeconfig: Path, tmp_path: Path
) -> None:
    cluster.plain_node(NODE)
    cluster.apply(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": "a"},
            "spec": {"source": {"uri": "hf://org/a"}},
        }
    )

    def condition() -> tuple[Any, Any]:
        found = cluster.api(f"/api/v1/nodes/{NODE}")["status"].get("conditions", [])
        one: dict[str, Any] = next((c for c in found if c["type"] == DISK_CONDITION), {})
        return one.get("status"), one.get("reason")

    def labelled(*, yes: bool) -> None:
        eventually(
            lambda: LABEL in cluster.node_labels(NODE),
            lambda seen: seen is yes,
            timeout=60,
            what="the label" if yes else "the label's end",
        )

    flags = ["--cluster", "--kubeconfig", str(kubeconfig), "--node-name", NODE]
    flags += ["--keep-free", "0"]
    with HubServer() as hub, sick_disk(tmp_path / "disk", 64 << 20) as disk:
        hub.add_repo("org/a", {"model.safetensors": bytes(1000)})
        root, environment = disk.place / "root", {"HF_ENDPOINT": hub.url}
        with AgentProcess(root, None, *flags, env=environment) as agent:
            labelled(yes=True)
            eventually(condition, lambda seen: seen == ("True", "DiskHealthy"), what="well")
            disk.make_read_only()
            agent.wait_for_event("disk.state", state="down", reason="DiskReadOnly")
            labelled(yes=False)
            eventually(condition, lambda seen: seen == ("False", "DiskReadOnly"), what="sick")
            disk.make_writable()
            labelled(yes=True)
            agent.kill()
        disk.make_read_only()
        assert LABEL in cluster.node_labels(NODE)
        with AgentProcess(root, None, *flags, env=environment) as agent:
            assert agent.process.wait(60) == 1
        assert LABEL not in cluster.node_labels(NODE)
        assert condition() == ("False", "DiskUnusable")
        disk.make_writable()
        with AgentProcess(root, None, *flags, env=environment) as agent:
            labelled(yes=True)
            eventually(condition, lambda seen: seen == ("True", "DiskHealthy"), what="well")
            agent.terminate()
    cluster.kubectl("delete", "cachedmodel", "a")
