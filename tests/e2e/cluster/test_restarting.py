"""An agent that comes back changes nothing that it said; nor does an API server that was away."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.client import NODES, Client, Watching
from modelcache.cluster.permits import PERMIT_LABEL
from modelcache.errors import ClusterError
from tests.e2e.cluster.nodes import (
    READY,
    REVISION,
    cached_model,
    our_labels,
    reported,
    start_agent,
)
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024


def label_patches(cluster: ControlPlane, node: str) -> list[dict[str, Any]]:
    """The patches of a node's labels that agents have sent."""
    found = cluster.requests(verb="patch", resource="nodes", name=node, subresource="")
    return [entry for entry in found if entry.get("userAgent", "").startswith("modelcache-agent/")]


@contextmanager
def watched_labels(cluster: ControlPlane, node: str) -> Iterator[list[dict[str, str]]]:
    """Our labels on a node in each of its versions, as a watch has them."""
    seen: list[dict[str, str]] = []
    client = Client.connect(cluster.kubeconfig, "test")
    mine = f"metadata.name={node}"
    listing = client.list(NODES, fields=mine)
    seen.append(_ours(listing.items[0]))

    def follow(stream: Watching) -> None:
        with suppress(ClusterError):  # it was stopped
            for events in stream.batches():
                seen.extend(_ours(event["object"]) for event in events)

    with client.watch(NODES, listing.resource_version, fields=mine, silence=300.0) as stream:
        thread = threading.Thread(target=follow, args=(stream,))
        thread.start()
        try:
            yield seen
        finally:
            stream.stop()
            thread.join(10)
            client.close()


def _ours(node: dict[str, Any]) -> dict[str, str]:
    labels = node["metadata"].get("labels", {})
    return {key: value for key, value in labels.items() if key.startswith((READY, REVISION))}


@pytest.mark.heavy
def test_a_restart_under_load_takes_no_label_away_and_patches_none(
    three_nodes: ControlPlane, hub: HubServer, tmp_path: Path
) -> None:
    cluster = three_nodes
    models = [f"m{n}" for n in range(6)]
    for name in models:
        hub.add_repo(f"org/{name}", {"config.json": b"{}", "w.safetensors": name.encode() * 999})
    hub.add_repo("org/big", {"model.safetensors": GeneratedContent(512 * MIB, seed=1)})
    on_n1 = {"nodeSelector": {"kubernetes.io/hostname": "n1"}}
    with start_agent(cluster, hub, tmp_path, "n1") as agent:
        cluster.apply(*(cached_model(name, f"org/{name}", **on_n1) for name in models))
        eventually(lambda: our_labels(cluster, "n1"), lambda found: len(found) == 2 * len(models))
        hub.set_rate(20 * MIB)
        cluster.apply(cached_model("big", "org/big", **on_n1))
        agent.wait_for_event("fetch.started", model="big")
        expected = our_labels(cluster, "n1")
        before = len(label_patches(cluster, "n1"))
        agent.kill()
    with watched_labels(cluster, "n1") as seen:
        for _ in range(3):
            with start_agent(cluster, hub, tmp_path, "n1") as agent:
                agent.wait_for_event("fetch.started", model="big")
                agent.wait_ready(*models)
                # It has reported progress: whatever it would do to labels is done.
                done = hub.bytes_sent("*model.safetensors")
                eventually(
                    lambda done=done: reported(cluster, "n1")["big"],  # type: ignore[misc]
                    lambda report, done=done: report["bytesDone"] > done / 2,  # type: ignore[misc]
                )
                agent.kill()
        with start_agent(cluster, hub, tmp_path, "n1") as agent:
            agent.wait_ready(*models)
            agent.wait_for_event("fetch.started", model="big")
            assert len(label_patches(cluster, "n1")) == before
            cluster.kubectl("delete", "cachedmodel", "m0", "big")
            remaining = {key: value for key, value in expected.items() if not key.endswith(".m0")}
            eventually(lambda: our_labels(cluster, "n1"), lambda found: found == remaining)
            eventually(lambda: reported(cluster, "n1"), lambda found: not found["m0"]["wanted"])
    assert len(label_patches(cluster, "n1")) == before + 1, "one change, one patch"
    assert all(labels in (expected, remaining) for labels in seen)


@pytest.mark.heavy
def test_an_api_server_that_is_away_stops_nothing(
    three_nodes: ControlPlane, hub: HubServer, tmp_path: Path
) -> None:
    cluster = three_nodes
    size = 96 * MIB
    for number in range(3):
        hub.add_repo(f"org/m{number}", {"w.safetensors": GeneratedContent(size, seed=number)})
    hub.add_repo("org/first", {"config.json": b"{}"})
    hub.set_rate(24 * MIB)
    nodes = ("n1", "n2", "n3")
    with ExitStack() as stack:
        agents = {
            node: stack.enter_context(start_agent(cluster, hub, tmp_path, node)) for node in nodes
        }
        cluster.apply(cached_model("first", "org/first"))
        for node in nodes:
            eventually(lambda node=node: our_labels(cluster, node), what=node)  # type: ignore[misc]
        # A rollout is under way: one object changes, others are new.
        cluster.apply(
            cached_model("first", "org/first", priority=5),
            *(cached_model(f"m{n}", f"org/m{n}") for n in range(3)),
        )
        for agent in agents.values():
            agent.wait_for_event("fetch.started", model="m0")
        cluster.stop_api_server()
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            cluster.read("/readyz")
        # Thirty seconds and more, by what happens meanwhile: all bytes come.
        for agent in agents.values():
            agent.wait_ready("m0", "m1", "m2", timeout=120)
            assert agent.process.poll() is None
            assert agent.get("/livez").strip() == "ok"
        cluster.start_api_server()
        wanted = {f"{READY}{name}" for name in ("first", "m0", "m1", "m2")}
        for node in nodes:
            eventually(
                lambda node=node: set(our_labels(cluster, node)),  # type: ignore[misc]
                lambda found: found >= wanted,
                timeout=120,
                what=f"the labels of {node}",
            )
            eventually(
                lambda node=node: reported(cluster, node),  # type: ignore[misc]
                lambda models: {m["state"] for m in models.values()} == {"Ready"},
                timeout=60,
            )
        assert hub.bytes_sent("*w.safetensors") == 3 * 3 * size, "nothing is fetched again"


def test_an_agent_that_is_told_to_stop_gives_its_permits_back(
    three_nodes: ControlPlane, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo("org/a", {"model.safetensors": GeneratedContent(64 * MIB, seed=1)})
    hub.set_rate(4 * MIB)

    def permits() -> list[dict[str, Any]]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
        return [
            lease
            for lease in three_nodes.api(path)["items"]
            if PERMIT_LABEL in lease["metadata"].get("labels", {})
        ]

    with start_agent(three_nodes, hub, tmp_path, "n1") as agent:
        three_nodes.apply(cached_model("a", "org/a"))
        agent.wait_for_event("fetch.started", model="a")
        assert len(permits()) == 1
        assert agent.terminate() == 0
        assert permits() == []
