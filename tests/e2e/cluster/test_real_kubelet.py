"""The project's image, from the project's manifests, on real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from tests.e2e.cluster.nodes import cached_model, condition, node_cache, our_labels, reported
from tests.e2e.cluster.realnodes import (
    AGENT_ID,
    DEADLINE,
    TAINT,
    Reading,
    World,
    agent_pod,
    asking_webhook,
    by_claim,
    create,
    has_taint,
    injected,
    processes,
    read,
    reader_pod,
    world,
)
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.kubelet import RealKubelet
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, Reset
from tests.support.hub.repository import Source

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.timeout(900)]

MIB = 1024 * 1024
WEIGHTS = GeneratedContent(8 * MIB, seed=1)
FILES: dict[str, Source] = {"config.json": b"{}", "model.safetensors": WEIGHTS}
OTHER_WEIGHTS = GeneratedContent(8 * MIB, seed=2)
SELECTED = {"modelcache.dev/node": "true"}
READY = "modelcache.dev/model."
AUTOSCALER_TAINT = "startup-taint.cluster-autoscaler.kubernetes.io/modelcache"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("overlay")) as found:
        yield found


@pytest.fixture(scope="module")
def first(cluster: World) -> Iterator[RealKubelet]:
    """A node that the controller runs on, and no agent: it is not selected as yet."""
    with cluster.node("first") as node:
        yield node


@pytest.fixture(scope="module")
def commit(cluster: World) -> str:
    """That of org/a."""
    return cluster.hub.add_repo("org/a", FILES)


@pytest.fixture(scope="module")
def early(cluster: World, first: RealKubelet, commit: str) -> Reading:
    """What a pod read that was on the first node before any agent was."""
    cluster.plane.apply(on_node("a", "first"))
    pod = asking_webhook(cluster, reader_pod(cluster, "early", "first", "a", commit))
    found = read(cluster, first, pod)
    # What kubelet made for it.
    for name in ("modelcache", "modelcache/hub", "modelcache/models"):
        made = (first.disk / name).stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (0, 0, 0o755)
    return found


@pytest.fixture(scope="module")
def filled(cluster: World, early: Reading, commit: str) -> str:
    """The commit of org/a, which the first node has."""
    cluster.plane.label_node("first", SELECTED)
    eventually(
        lambda: our_labels(cluster.plane, "first"),
        lambda labels: labels.get(f"{READY}a") == "Ready",
        timeout=90,
        what="the label",
    )
    return commit


@pytest.fixture(scope="module")
def second(cluster: World, first: RealKubelet) -> Iterator[RealKubelet]:
    """A node that is registered with the startup taint, and is to have org/b."""
    cluster.hub.add_repo("org/b", {**FILES, "model.safetensors": OTHER_WEIGHTS})
    cluster.plane.apply(on_node("b", "second"))
    with cluster.node("second", labels=SELECTED, taints=[f"{TAINT}=:NoSchedule"]) as node:
        assert has_taint(cluster.plane, "second")
        yield node


@pytest.fixture(scope="module")
def third(cluster: World, first: RealKubelet) -> Iterator[RealKubelet]:
    """A node like it. Of its model, org/c, the origin is down."""
    cluster.hub.add_repo("org/c", FILES)
    cluster.hub.fault_api(Reset(times=None), "*/org/c*")
    cluster.plane.apply(on_node("c", "third"))
    with cluster.node("third", labels=SELECTED, taints=[f"{TAINT}=:NoSchedule"]) as node:
        assert has_taint(cluster.plane, "third")
        yield node


def on_node(name: str, node: str) -> dict[str, Any]:
    """A model for one node."""
    return cached_model(name, f"org/{name}", nodeSelector={"kubernetes.io/hostname": node})


def test_a_pod_that_prefers_a_model_fetches_it_itself_where_no_agent_is(early: Reading) -> None:
    assert early.digest == WEIGHTS.sha256()
    assert any(path.endswith("/model.safetensors") for path in early.asked)


# Its deadline passes while others are tested.
@pytest.mark.usefixtures("third")
def test_the_agent_fills_its_directory_of_the_host_as_a_user_without_rights(
    cluster: World, first: RealKubelet, filled: str
) -> None:
    plane = cluster.plane
    assert our_labels(plane, "first")["modelcache.dev/revision.a"] == filled[:12]
    report = eventually(
        lambda: reported(plane, "first"), lambda found: found["a"]["state"] == "Ready"
    )["a"]
    assert report["revision"] == filled

    def has(kind: str, status: str) -> bool:
        return condition(plane.api("/api/v1/nodes/first"), kind).get("status") == status

    eventually(lambda: has("ModelCacheReady", "True"), what="the node's condition")

    root = first.disk / "modelcache"
    snapshot = root / "models/a/current"
    assert (snapshot / "config.json").read_bytes() == b"{}"
    assert (snapshot / "model.safetensors").stat().st_size == WEIGHTS.size
    shared = [root, root / "hub", root / "models", root / "compile"]
    for folder in shared:
        # Made by kubelet for root alone, and taken over by prepare-root.
        found = folder.stat()
        assert (found.st_uid, found.st_gid) == (0, AGENT_ID)
        assert found.st_mode & 0o7777 == 0o2775
    below = [path for path in root.rglob("*") if path not in shared]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in below} == {(AGENT_ID, AGENT_ID)}
    # As the kernel sees it: user, groups, no capability, no way to any.
    (agent,) = processes(first, "modelcache agent")
    assert agent["Uid"].split() == [str(AGENT_ID)] * 4
    assert agent["Groups"].split() == [str(AGENT_ID)]
    assert int(agent["CapEff"], 16) == int(agent["CapBnd"], 16) == 0
    assert agent["NoNewPrivs"] == "1"
    # Seccomp's filter.
    assert agent["Seccomp"] == "2"

    def is_ready() -> bool:
        return condition(agent_pod(plane, "first"), "Ready").get("status") == "True"

    eventually(is_ready, what="the pod's readiness")
    eventually(
        lambda: plane.api("/apis/modelcache.dev/v1alpha1/cachedmodels/a")["status"],
        lambda status: status["nodes"] == {"desired": 1, "ready": 1, "downloading": 0, "failed": 0},
        what="the controller's sums",
    )
    print(plane.kubectl("get", "pods,nodes,cachedmodels,nodecaches", "-A", "-o", "wide"))


@pytest.mark.parametrize("by", ["command", "webhook"])
@pytest.mark.parametrize("affinity", ["preferred", "required"])
def test_an_injected_pod_reads_the_model_without_a_request_to_the_hub(
    cluster: World,
    first: RealKubelet,
    filled: str,
    tmp_path: Path,
    affinity: str,
    by: str,
) -> None:
    pod = reader_pod(cluster, f"{affinity}-{by}", "first", "a", filled, affinity)
    if by == "webhook":
        asking_webhook(cluster, pod)
    else:
        pod = injected(tmp_path, pod, on_node("a", "first"))
    found = read(cluster, first, pod)
    assert found.digest == WEIGHTS.sha256()
    assert found.offline == ("1" if affinity == "required" else "")
    assert found.asked == []
    assert found.uid == AGENT_ID


def test_the_startup_taint_goes_when_the_model_is_there(
    cluster: World, second: RealKubelet
) -> None:
    plane = cluster.plane
    eventually(lambda: not has_taint(plane, "second"), timeout=DEADLINE, what="it goes")
    assert our_labels(plane, "second")[f"{READY}b"] == "Ready"
    assert (second.disk / "modelcache/models/b/current/config.json").exists()
    assert untainted(cluster, "second")["reason"] == "StartupTaintRemoved"


def test_a_pod_that_prefers_a_model_fetches_it_itself_where_an_agent_has_others(
    cluster: World, first: RealKubelet, second: RealKubelet, filled: str
) -> None:
    plane = cluster.plane
    ready = plane.watch_until(f"/api/v1/nodes?labelSelector={READY}b=Ready", bool, timeout=DEADLINE)
    assert [node["metadata"]["name"] for node in ready] == ["second"]
    revision = our_labels(plane, "second")["modelcache.dev/revision.b"]
    pod = asking_webhook(cluster, reader_pod(cluster, "lacking", "first", "b", revision))
    found = read(cluster, first, pod)
    assert found.digest == OTHER_WEIGHTS.sha256()
    assert any(path.endswith("/model.safetensors") for path in found.asked)
    assert found.offline == ""
    # It is the pod's own, and not the node's.
    assert {path.name for path in (first.disk / "modelcache/hub").iterdir()} == {"a"}
    assert condition(agent_pod(plane, "first"), "Ready")["status"] == "True"


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_pod_that_may_not_mount_a_host_path_gets_affinity_only(
    cluster: World, first: RealKubelet, second: RealKubelet, filled: str, level: str
) -> None:
    plane = cluster.plane
    labels = {"pod-security.kubernetes.io/enforce": level}
    namespace = {"apiVersion": "v1", "kind": "Namespace"}
    plane.apply({**namespace, "metadata": {"name": level, "labels": labels}})
    pod = reader_pod(cluster, f"in-{level}", None, "a", filled, "required")
    pod["metadata"]["namespace"] = level
    by_claim(cluster, pod, "a")

    def would_be() -> tuple[dict[str, Any], str]:
        made, warnings = create(cluster, pod, dry_run=True)
        return made["spec"], " ".join(warnings)

    plain, _ = eventually(would_be, what="the namespace's account")
    pod["metadata"]["labels"] = {"modelcache.dev/inject": "true"}
    _, warning = eventually(would_be, lambda found: f"Pod Security {level}" in found[1])
    assert warning.endswith(': only affinity is injected"')
    found = read(cluster, first, pod)
    expression = {"key": f"{READY}a", "operator": "In", "values": ["Ready"]}
    term = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    assert found.spec == {**plain, "affinity": affinity, "nodeName": "first"}
    assert found.digest == WEIGHTS.sha256()
    assert found.path.startswith("/mnt/hub/")
    assert found.asked == []


def test_the_startup_taint_goes_by_deadline_when_the_origin_is_down(
    cluster: World, third: RealKubelet
) -> None:
    plane = cluster.plane
    state = eventually(
        lambda: reported(plane, "third")["c"]["state"],
        lambda state: state in ("Failed", "Downloading", "Pending"),
        timeout=60,
    )
    eventually(lambda: not has_taint(plane, "third"), timeout=2 * DEADLINE, what="it goes")
    event = untainted(cluster, "third")
    assert event["reason"] == "StartupDeadlinePassed"
    created = plane.api("/api/v1/nodes/third")["metadata"]["creationTimestamp"]
    age = datetime.fromisoformat(event["eventTime"]) - datetime.fromisoformat(created)
    assert DEADLINE <= age.total_seconds() <= DEADLINE + 15, state
    assert f"{READY}c" not in our_labels(plane, "third")


def test_uninstalling_leaves_nothing_of_ours(
    cluster: World, first: RealKubelet, second: RealKubelet, third: RealKubelet, filled: str
) -> None:
    plane, nodes = cluster.plane, [first, second, third]
    # Another than that which the controller takes off; the Job has to tolerate it.
    plane.kubectl("taint", "nodes", "--all", f"{AUTOSCALER_TAINT}=:NoSchedule")

    def ours() -> dict[str, set[str]]:
        return {node.name: ours_on(cluster, node.name) for node in nodes}

    on_all = {READY_CONDITION, DISK_CONDITION, AUTOSCALER_TAINT}
    eventually(
        ours,
        lambda found: (
            all(on_all <= each for each in found.values())
            and f"{READY}a" in found["first"]
            and f"{READY}b" in found["second"]
        ),
        timeout=DEADLINE,
    )
    # As docs/install.md says.
    job = ("-n", NAMESPACE, "job/modelcache-cleanup")
    plane.kubectl("apply", "-k", cluster.cleanup)
    plane.kubectl("wait", "--for=condition=complete", "--timeout=100s", *job)
    assert ours() == {"first": set(), "second": set(), "third": set()}
    said = "".join(node.logs(NAMESPACE, "modelcache-cleanup-*", "cleanup") for node in nodes)
    assert "3 nodes, 3 of them carried something of ours; 3 NodeCaches deleted" in said
    assert not any(node_cache(plane, node.name) for node in nodes)
    for node in nodes:
        assert processes(node, "modelcache agent") == []
        # What others may have set, and what lies on the disk.
        assert SELECTED.items() <= plane.node_labels(node.name).items()
    assert (first.disk / "modelcache/models/a/current/config.json").exists()
    for manifests in (cluster.overlay, cluster.cleanup):
        plane.kubectl("delete", "-k", manifests, "--ignore-not-found", "--wait=false")
    kinds = "priorityclasses,clusterroles,clusterrolebindings,mutatingwebhookconfigurations"
    selected = ("-l", "app.kubernetes.io/part-of=modelcache")
    assert plane.kubectl("get", kinds, "-o", "name", *selected) == ""


def untainted(cluster: World, node: str) -> dict[str, Any]:
    """The event that tells of a node's startup taint."""

    def events() -> list[dict[str, Any]]:
        found = cluster.plane.api("/apis/events.k8s.io/v1/events")["items"]
        ours = [one for one in found if one.get("action") == "Untaint"]
        return [one for one in ours if one["regarding"]["name"] == node]

    (event,) = eventually(events, what="an event")
    return event


def ours_on(cluster: World, name: str) -> set[str]:
    """What a node carries of ours: labels, the condition, taints."""
    node = cluster.plane.api(f"/api/v1/nodes/{name}")
    conditions = {one["type"] for one in node["status"]["conditions"]}
    taints = {one["key"] for one in node["spec"].get("taints", ())}
    of_ours = {READY_CONDITION, DISK_CONDITION, TAINT, AUTOSCALER_TAINT}
    return {*our_labels(cluster.plane, name), *(of_ours & (conditions | taints))}
