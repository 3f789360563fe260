"""Three nodes with an agent each: what is selected is fetched, labelled, scheduled to, let go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.component.cluster.test_control_plane import AFFINITY, deployment, pods
from tests.e2e.cluster.nodes import (
    READY,
    REVISION,
    cached_model,
    condition,
    node_cache,
    our_labels,
    reported,
    start_agent,
)
from tests.support.agent import AgentProcess, modelcache
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, HubServer
from tests.support.strangers import Stranger

MIB = 1024 * 1024
NODES = ("n1", "n2", "n3")
Agents = dict[str, AgentProcess]


@pytest.fixture
def nodes(three_nodes: ControlPlane) -> ControlPlane:
    for name in NODES:
        three_nodes.label_node(name, {"disk": "none" if name == "n3" else "nvme"})
    return three_nodes


@pytest.fixture
def agents(nodes: ControlPlane, hub: HubServer, tmp_path: Path) -> Iterator[Agents]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                start_agent(nodes, hub, tmp_path, name, "--delete-unwanted-after", "1s")
            )
            for name in NODES
        }


def test_what_is_selected_is_fetched_and_pods_land_where_it_is(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    commit = hub.add_repo(
        "org/a", {"config.json": b"{}", "model.safetensors": GeneratedContent(8 * MIB, seed=1)}
    )
    nodes.apply(deployment("wants-a", 2, affinity=AFFINITY))

    def refused() -> bool:
        conditions = [pod["status"].get("conditions", []) for pod in pods(nodes)]
        return len(conditions) == 2 and all(c and c[0]["status"] == "False" for c in conditions)

    eventually(refused, what="the scheduler's refusal")
    nodes.apply(cached_model("a", "org/a", nodeSelector={"disk": "nvme"}))
    labels = {f"{READY}a": "Ready", f"{REVISION}a": commit[:12]}
    for name in ("n1", "n2"):
        eventually(
            lambda name=name: our_labels(nodes, name),  # type: ignore[misc]
            lambda found: found == labels,
            what=f"the labels of {name}",
        )
    bound = eventually(
        lambda: {pod["spec"].get("nodeName") for pod in pods(nodes)},
        lambda found: None not in found,
        what="the pods' nodes",
    )
    assert bound <= {"n1", "n2"}
    assert our_labels(nodes, "n3") == {}
    assert hub.bytes_sent("*.safetensors") == 2 * 8 * MIB, "on two nodes, once on each"

    report = eventually(
        lambda: reported(nodes, "n1"), lambda found: found["a"]["state"] == "Ready"
    )["a"]
    assert report["revision"] == commit
    assert report["bytesTotal"] == report["bytesDone"] == 8 * MIB + 2
    assert report["finishedAt"]
    found = node_cache(nodes, "n1")
    node = nodes.api("/api/v1/nodes/n1")
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Node", node["metadata"]["uid"])
    assert found["status"]["root"] == str(agents["n1"].root)
    eventually(
        lambda: condition(nodes.api("/api/v1/nodes/n1"), "ModelCacheReady"),
        lambda c: c.get("status") == "True",
    )
    print(nodes.kubectl("get", "cachedmodels,nodecaches", "-o", "wide"))


def test_preferred_affinity_goes_there_when_it_can_and_elsewhere_when_it_cannot(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"config.json": b"{}"})
    required = AFFINITY["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    preference = {"weight": 100, "preference": required["nodeSelectorTerms"][0]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}
    nodes.apply(cached_model("a", "org/a", nodeSelector={"kubernetes.io/hostname": "n2"}))
    eventually(lambda: our_labels(nodes, "n2"))
    affinity = {"nodeAffinity": preferred}

    def landed(name: str) -> list[str]:
        found = [p for p in pods(nodes) if p["metadata"]["labels"]["app"] == name]
        return [pod["spec"]["nodeName"] for pod in found]

    def both(landed: Iterable[str]) -> bool:
        return len(list(landed)) == 2

    nodes.apply(deployment("first", 2, affinity=affinity))
    assert set(eventually(lambda: landed("first"), both)) == {"n2"}
    nodes.kubectl("cordon", "n2")
    nodes.apply(deployment("second", 2, affinity=affinity))
    elsewhere = eventually(lambda: landed("second"), both)
    assert "n2" not in elsewhere


def test_a_node_that_gets_the_label_later_gets_the_model_then(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"config.json": b"{}"})
    nodes.apply(cached_model("a", "org/a", nodeSelector={"disk": "nvme"}))
    eventually(lambda: our_labels(nodes, "n1"))
    assert our_labels(nodes, "n3") == {}
    nodes.label_node("n3", {"disk": "nvme"})
    eventually(lambda: our_labels(nodes, "n3"))
    nodes.label_node("n3", {"disk": None})
    eventually(lambda: our_labels(nodes, "n3"), lambda labels: labels == {})


def test_a_deleted_model_loses_its_label_first_and_then_its_content(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"config.json": b"{}", "model.safetensors": b"x" * MIB})
    hub.add_repo("org/b", {"config.json": b"{}"})
    on_n1 = {"nodeSelector": {"kubernetes.io/hostname": "n1"}}
    nodes.apply(cached_model("a", "org/a", **on_n1), cached_model("b", "org/b", **on_n1))
    eventually(lambda: our_labels(nodes, "n1"), lambda labels: len(labels) == 4)
    nodes.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "user", "annotations": {"modelcache.dev/model": "a"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
        }
    )
    nodes.kubectl("delete", "cachedmodel", "a")
    eventually(
        lambda: our_labels(nodes, "n1"), lambda labels: set(labels) == {READY + "b", REVISION + "b"}
    )
    view = agents["n1"].root / "models" / "a" / "current"
    assert (view / "model.safetensors").stat().st_size == MIB, "a pod uses it"
    assert not any(event["event"] == "model.removed" for event in agents["n1"].events)
    nodes.kubectl("delete", "pod", "user", "--force", "--grace-period=0")
    agents["n1"].wait_for_event("model.removed", model="a")
    assert not view.exists()
    assert (agents["n1"].root / "models" / "b" / "current" / "config.json").exists()
    eventually(lambda: reported(nodes, "n1"), lambda models: set(models) == {"b"})


def test_what_a_lease_or_a_process_holds_stays_when_its_object_is_deleted(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    names = ("held", "open", "free")
    on_n1 = {"nodeSelector": {"kubernetes.io/hostname": "n1"}}
    for name in names:
        hub.add_repo(f"org/{name}", {"config.json": b"{}", "weights": name.encode() * 1000})
        nodes.apply(cached_model(name, f"org/{name}", **on_n1))
    eventually(lambda: our_labels(nodes, "n1"), lambda labels: len(labels) == 6)
    agent = agents["n1"]
    views = {name: agent.root / "models" / name / "current" / "weights" for name in names}
    ended = modelcache("lease", "held", "--for", "1h", "--root", agent.root)
    lease = ended.stdout.strip()
    with Stranger(views["open"], kind="mapped") as stranger:
        nodes.kubectl("delete", "cachedmodel", *names)
        agent.wait_for_event("model.removed", model="free")
        assert views["held"].exists(), f"a lease holds it: {ended}"
        assert views["open"].exists(), "a process reads it"
        stranger.end()
        agent.wait_for_event("model.removed", model="open")
    assert views["held"].exists()
    modelcache("release", lease, "--root", agent.root)
    agent.wait_for_event("model.removed", model="held")
    assert our_labels(nodes, "n1") == {}


def test_one_bad_object_stops_no_other(nodes: ControlPlane, agents: Agents, hub: HubServer) -> None:
    hub.add_repo("org/good", {"config.json": b"{}"})
    refused = nodes.kubectl(
        *("apply", "-f", "-"),
        stdin=str(cached_model("x", "org/x", priority="high")).replace("'", '"'),
        check=False,
    )
    assert "spec.priority" in refused
    # The schema can't say that In needs a value.
    expression = {"key": "disk", "operator": "In"}
    terms = [{"matchExpressions": [expression]}]
    bad: dict[str, Any] = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
    }
    nodes.apply(cached_model("bad", "org/bad", nodeAffinity=bad))
    nodes.apply(cached_model("missing", "org/missing"), cached_model("good", "org/good"))
    for name in NODES:
        eventually(lambda name=name: our_labels(nodes, name), what=name)  # type: ignore[misc]
        assert set(our_labels(nodes, name)) == {f"{READY}good", f"{REVISION}good"}
    report = eventually(
        lambda: reported(nodes, "n1"), lambda models: models["missing"]["state"] == "Failed"
    )
    assert report["missing"]["reason"] == "NotFound"
    problems = node_cache(nodes, "n1")["status"]["catalog"]["problems"]
    assert any("cachedmodels/bad" in problem for problem in problems)


def test_what_happens_is_told_by_events(
    nodes: ControlPlane, agents: Agents, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"config.json": b"{}"})
    on_n1 = {"nodeSelector": {"kubernetes.io/hostname": "n1"}}
    nodes.apply(cached_model("a", "org/a", **on_n1), cached_model("b", "org/nothing", **on_n1))

    def told() -> set[tuple[str, str, str]]:
        events = nodes.api("/apis/events.k8s.io/v1/events")["items"]
        ours = [e for e in events if e.get("reportingController") == "modelcache.dev/agent"]
        return {(e["type"], e["reason"], e["related"]["name"]) for e in ours}

    wanted = {("Normal", "ModelReady", "a"), ("Warning", "ModelNotFound", "b")}
    assert eventually(told, lambda found: found >= wanted) == wanted
