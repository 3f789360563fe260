"""The controller as a process, with its own rights, against the real API server."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.controller import NAMESPACE, USER, ControllerProcess, controller_account

OURS = "/apis/modelcache.dev/v1alpha1"
URI = "hf://meta-llama/Meta-Llama-3-8B-Instruct@main"
COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
SIZE = 16_060_522_496
TAINT = {"key": "modelcache.dev/not-ready", "effect": "NoSchedule"}
OTHER = {"key": "example.com/other", "effect": "NoExecute", "value": "x"}

READY = {"state": "Ready", "revision": COMMIT, "bytesDone": SIZE, "bytesTotal": SIZE}
DENIED = {"state": "Failed", "attempts": 3, "reason": "AuthFailed", "message": "wants a token"}
MOVING = {"state": "Downloading", "revision": COMMIT, "bytesDone": SIZE // 2, "bytesTotal": SIZE}

Start = Callable[..., ControllerProcess]


@pytest.fixture
def account(cluster: ControlPlane) -> Path:
    """The controller's kubeconfig."""
    return controller_account(cluster)


@pytest.fixture
def start(cluster: ControlPlane, account: Path) -> Iterator[Start]:
    """Starts controllers that end with the test."""
    begun: list[ControllerProcess] = []

    def call(identity: str = "one", *flags: str) -> ControllerProcess:
        begun.append(ControllerProcess(account, identity, *flags))
        return begun[-1]

    yield call
    for controller in begun:
        with controller:
            pass


def cached_model(cluster: ControlPlane, name: str, uri: str = URI, **spec: Any) -> None:
    body = {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": name},
        "spec": {"source": {"uri": uri}, **spec},
    }
    cluster.api(f"{OURS}/cachedmodels", "POST", body)


def report(cluster: ControlPlane, node: str, **models: dict[str, Any]) -> None:
    """Write a NodeCache as an agent does: each model with what is said of it."""
    path = f"{OURS}/nodecaches/{node}"
    if cluster.find(path) is None:
        owner = {"apiVersion": "v1", "kind": "Node", "name": node}
        owner["uid"] = cluster.api(f"/api/v1/nodes/{node}")["metadata"]["uid"]
        body = {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "NodeCache",
            "metadata": {"name": node, "ownerReferences": [owner]},
        }
        cluster.api(f"{OURS}/nodecaches", "POST", body)
    told = [{"name": name, "source": URI, **said} for name, said in models.items()]
    ready = sum(said["state"] == "Ready" for said in models.values())
    status = {
        "agentVersion": "0",
        "root": "/var/lib/modelcache",
        "models": told,
        "readyModels": f"{ready}/{len(told)}",
        "disk": {
            "capacity": 3_840_000_000_000,
            "available": 1_700_000_000_000,
            "used": SIZE,
            "reserved": 0,
            "capacityText": "3.5Ti",
            "availableText": "1.5Ti",
            "usedText": "15Gi",
        },
    }
    cluster.api(f"{path}/status", "PATCH", {"status": status}, "merge-patch+json")


def status(cluster: ControlPlane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.api(f"{OURS}/cachedmodels/{name}").get("status", {})
    return found


def ready(cluster: ControlPlane, name: str) -> dict[str, Any]:
    (condition,) = status(cluster, name)["conditions"]
    assert condition["type"] == "Ready"
    return dict(condition)


def becomes(cluster: ControlPlane, name: str, reason: str, timeout: float = 30.0) -> dict[str, Any]:
    """Wait for the condition to have a reason; the status then."""
    eventually(
        lambda: ready(cluster, name),
        lambda condition: condition["reason"] == reason,
        timeout,
        f"{name}: {reason}",
    )
    return status(cluster, name)


def events(cluster: ControlPlane, kind: str, name: str) -> list[tuple[str, str, str]]:
    """(type, reason, note) of the Events on an object."""
    found = cluster.api("/apis/events.k8s.io/v1/events")["items"]
    return [
        (event["type"], event["reason"], event["note"])
        for event in found
        if (event["regarding"]["kind"], event["regarding"]["name"]) == (kind, name)
        and event.get("reportingController") == "modelcache.dev/controller"
    ]


class Requests:
    """What the controllers asked for since it was made."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster
        self._before = len(cluster.requests(user=USER))

    def writes(self) -> list[str]:
        """Verb and path of those that write, but for Leases."""
        return [
            f"{entry['verb']} {entry['requestURI'].partition('?')[0]}"
            for entry in self._cluster.requests(user=USER)[self._before :]
            if entry["verb"] not in ("get", "list", "watch")
            and entry["objectRef"]["resource"] != "leases"
        ]

    def statuses(self, name: str) -> int:
        """How often a status was written, or tried to."""
        return self.writes().count(f"patch {OURS}/cachedmodels/{name}/status")


def tainted(cluster: ControlPlane, name: str, *taints: dict[str, str]) -> None:
    """A Node that no kubelet is behind, with taints."""
    metadata = {"name": name}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}}
    cluster.api("/api/v1/nodes", "POST", body)


def taints(cluster: ControlPlane, name: str) -> list[dict[str, str]]:
    """The node's taints, less those that Kubernetes sets on a node without kubelet."""
    found = cluster.api(f"/api/v1/nodes/{name}")["spec"].get("taints", [])
    return [taint for taint in found if not taint["key"].startswith("node.kubernetes.io/")]


def set_condition(cluster: ControlPlane, name: str, value: str) -> None:
    moment = "2024-01-01T00:00:00Z"
    condition = {"type": "ModelCacheReady", "status": value, "reason": "Test", "message": "test"}
    condition |= {"lastTransitionTime": moment, "lastHeartbeatTime": moment}
    body = {"status": {"conditions": [condition]}}
    cluster.api(f"/api/v1/nodes/{name}/status", "PATCH", body, "strategic-merge-patch+json")


# Status


def test_the_status_follows_the_nodes(cluster: ControlPlane, start: Start) -> None:
    controller = start()
    for name in ("p1", "p2", "p3", "p4", "p5"):
        cluster.plain_node(name, {"gpu": "yes"} if name != "p5" else {})
    cached_model(cluster, "llama", nodeSelector={"gpu": "yes"})
    cached_model(cluster, "nowhere", nodeSelector={"gpu": "certainly"})
    becomes(cluster, "llama", "NoNodesSelected")
    for name, said in (("p1", READY), ("p2", READY), ("p3", MOVING), ("p4", DENIED), ("p5", READY)):
        report(cluster, name, llama=said)
    becomes(cluster, "llama", "AuthFailed")
    found = eventually(lambda: status(cluster, "llama"), lambda s: s["nodes"]["failed"])
    assert found["nodes"] == {"desired": 4, "ready": 2, "downloading": 1, "failed": 1}
    assert (found["revision"], found["bytes"], found["size"]) == (COMMIT, SIZE, "15Gi")
    assert found["observedGeneration"] == 1
    condition = ready(cluster, "llama")
    assert condition["status"] == "False"
    assert condition["message"] == (
        "2 of 4 nodes ready; 1 downloading (50 %), 1 failed: p4: AuthFailed: wants a token"
    )
    _look_at(cluster)
    for name in ("p3", "p4"):
        report(cluster, name, llama=READY)
    assert becomes(cluster, "llama", "AllNodesReady")["readyNodes"] == "4/4"
    cluster.kubectl("wait", "--for=condition=Ready", "cachedmodel/llama", "--timeout=5s")
    cluster.label_node("p5", {"gpu": "yes"})
    eventually(lambda: status(cluster, "llama"), lambda s: s["readyNodes"] == "5/5")
    cluster.kubectl("delete", "node", "p5")
    eventually(lambda: status(cluster, "llama"), lambda s: s["readyNodes"] == "4/4")
    assert controller.metrics()[("modelcache_model_nodes", "llama", "ready")] == 4
    told = eventually(lambda: events(cluster, "CachedModel", "llama"), lambda e: len(e) == 2)
    assert {(kind, reason) for kind, reason, _ in told} == {
        ("Warning", "AuthFailed"),
        ("Normal", "AllNodesReady"),
    }
    assert events(cluster, "CachedModel", "nowhere") == []


def _look_at(cluster: ControlPlane) -> None:
    """What a person sees; printed, to be looked at with `pytest -s`."""
    models = cluster.kubectl("get", "cachedmodels")
    print("\n" + models + "\n" + cluster.kubectl("get", "cmodel", "-o", "wide"))
    print(cluster.kubectl("get", "nodecaches"), cluster.kubectl("get", "ncache", "-o", "wide"))
    head, *rows = [line.split() for line in models.splitlines()]
    assert head == ["NAME", "READY", "STATUS", "DOWNLOADING", "FAILED", "SIZE", "AGE"]
    by_name = {row[0]: row[1:6] for row in rows}
    assert by_name["llama"] == ["2/4", "AuthFailed", "1", "1", "15Gi"]
    assert by_name["nowhere"][:2] == ["0/0", "NoNodesSelected"]
    node = cluster.kubectl("get", "nodecache", "p1", "--no-headers").split()
    assert node[1:4] == ["1/1", "15Gi", "1.5Ti"]  # it has no condition


def test_a_bad_object_is_told_and_stops_no_other(cluster: ControlPlane, start: Start) -> None:
    cluster.plain_node("p1")
    report(cluster, "p1", good=READY)
    for name, uri in (("a-bad", "hf://nothing"), ("good", URI), ("z-bad", "file:///a/../b")):
        cached_model(cluster, name, uri)
    start()
    becomes(cluster, "good", "AllNodesReady")
    for name in ("a-bad", "z-bad"):
        found = becomes(cluster, name, "InvalidSpec")
        assert found["observedGeneration"] == 1
        assert ready(cluster, name)["status"] == "False"
        assert ready(cluster, name)["message"].startswith("spec.source.uri: ")
        told = eventually(lambda name=name: events(cluster, "CachedModel", name))  # type: ignore[misc]
        assert [(kind, reason) for kind, reason, _ in told] == [("Warning", "InvalidSpec")]
    # Put right, it gets a status of the new generation.
    patch = {"spec": {"source": {"uri": URI}}}
    cluster.api(f"{OURS}/cachedmodels/a-bad", "PATCH", patch, "merge-patch+json")
    assert becomes(cluster, "a-bad", "Progressing")["observedGeneration"] == 2


def test_nothing_is_written_when_nothing_changes(cluster: ControlPlane, start: Start) -> None:
    cluster.plain_node("p1")
    report(cluster, "p1", llama=READY)
    cached_model(cluster, "llama")
    requests = Requests(cluster)
    controller = start()
    becomes(cluster, "llama", "AllNodesReady")
    eventually(lambda: events(cluster, "CachedModel", "llama"))
    before = requests.writes()
    assert requests.statuses("llama") == 1
    report(cluster, "p1", llama=READY)  # the same again
    cluster.api(
        f"{OURS}/cachedmodels/llama",
        "PATCH",
        {"metadata": {"labels": {"x": "y"}}},
        "merge-patch+json",
    )
    time.sleep(8.0)  # for what is not to happen
    assert requests.writes() == before
    # A restart finds everything as it is to be.
    assert controller.terminate() == 0
    start("two").wait_leading()
    time.sleep(4.0)
    assert requests.writes() == before


def test_writes_of_one_object_keep_their_distance(cluster: ControlPlane, start: Start) -> None:
    cluster.plain_node("p1")
    cached_model(cluster, "llama")
    report(cluster, "p1", llama=MOVING)
    requests = Requests(cluster)
    start("one", "--status-seconds", "3")
    becomes(cluster, "llama", "Progressing")
    began = time.monotonic()
    for done in range(60):
        report(cluster, "p1", llama={**MOVING, "bytesDone": done, "bytesTotal": 100})
        time.sleep(0.1)
    # Four in six seconds; more, where each report took longer.
    most = 2 + (time.monotonic() - began) / 3
    assert 2 <= requests.statuses("llama") <= most
    eventually(lambda: ready(cluster, "llama")["message"], lambda message: "(59 %)" in message)


# Leading


def test_of_two_one_leads_and_the_other_takes_over(cluster: ControlPlane, start: Start) -> None:
    first = start("first")
    first.wait_leading()
    second = start("second")
    cluster.plain_node("p1")
    cached_model(cluster, "llama")
    report(cluster, "p1", llama=MOVING)
    becomes(cluster, "llama", "Progressing")
    watched = ("modelcache_controller_objects", "nodecaches")
    eventually(lambda: second.metrics()[watched], lambda number: number == 1)
    assert second.metrics()[("modelcache_controller_leading",)] == 0
    eventually(lambda: second.get("/readyz"), lambda answer: answer == "ok\n")
    first.kill()
    report(cluster, "p1", llama=READY)
    second.wait_leading(30)
    becomes(cluster, "llama", "AllNodesReady", 10)
    assert second.metrics()[("modelcache_controller_leading",)] == 1


def test_who_was_stopped_for_long_writes_no_more(cluster: ControlPlane, start: Start) -> None:
    first = start("first")
    first.wait_leading()
    first.process.send_signal(signal.SIGSTOP)
    second = start("second")
    second.wait_leading(30)
    cluster.plain_node("p1")
    cached_model(cluster, "llama")
    report(cluster, "p1", llama=READY)
    becomes(cluster, "llama", "AllNodesReady")
    first.process.send_signal(signal.SIGCONT)
    first.wait_for_event("controller.leads_no_more")
    assert first.metrics()[("modelcache_controller_leading",)] == 0
    assert ("modelcache_controller_writes_total", "cachedmodels", "ok") not in first.metrics()


def test_it_ends_at_once_and_hands_over(cluster: ControlPlane, start: Start) -> None:
    first = start("first")
    first.wait_leading()
    second = start("second")
    second.wait_for_event("controller.started")
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/modelcache-controller"
    assert cluster.api(lease)["spec"]["holderIdentity"] == "first"
    began = time.monotonic()
    assert first.terminate(5.0) == 0
    second.wait_leading(10)
    assert time.monotonic() - began < 10  # the Lease would have lasted for longer
    assert cluster.api(lease)["spec"]["holderIdentity"] == "second"


def test_it_ends_in_time_also_while_nobody_answers(cluster: ControlPlane, start: Start) -> None:
    controller = start()
    controller.wait_leading()
    with cluster.hanging_api_server():
        time.sleep(3.0)  # some request hangs by now
        assert controller.terminate(5.0) == 0


# Startup taints


def test_the_taint_goes_when_the_node_is_ready(cluster: ControlPlane, start: Start) -> None:
    tainted(cluster, "p1", OTHER, TAINT)
    tainted(cluster, "p2", TAINT, {**TAINT, "effect": "NoExecute"}, OTHER)
    tainted(cluster, "p3", TAINT)
    for name, value in (("p2", "True"), ("p3", "False")):
        set_condition(cluster, name, value)
    controller = start()
    eventually(lambda: taints(cluster, "p2"), lambda found: found == [OTHER])
    assert taints(cluster, "p1") == [OTHER, TAINT]
    set_condition(cluster, "p1", "True")
    eventually(lambda: taints(cluster, "p1"), lambda found: found == [OTHER])
    assert taints(cluster, "p3") == [TAINT]
    told = eventually(lambda: events(cluster, "Node", "p1"))
    assert [(kind, reason) for kind, reason, _ in told] == [("Normal", "StartupTaintRemoved")]
    assert (
        controller.metrics()[("modelcache_controller_startup_taints_removed_total", "ready")] == 2
    )


def test_the_taint_goes_by_deadline_where_no_agent_ever_came_up(
    cluster: ControlPlane, start: Start
) -> None:
    controller = start("one", "--startup-deadline", "8s")
    controller.wait_leading()
    late = cluster.hollow_node("late")
    taint = {"spec": {"taints": [TAINT, OTHER]}}
    cluster.api("/api/v1/nodes/late", "PATCH", taint, "merge-patch+json")
    assert taints(cluster, "late") == [TAINT, OTHER]
    eventually(lambda: taints(cluster, "late"), lambda found: found == [OTHER], timeout=15)
    told = eventually(lambda: events(cluster, "Node", "late"))
    assert [(kind, reason) for kind, reason, _ in told] == [("Warning", "StartupDeadlinePassed")]
    found = controller.metrics()
    assert found[("modelcache_controller_startup_taints_removed_total", "deadline")] == 1
    # It is for new nodes: on one that is older than the deadline it goes at once.
    cluster.api("/api/v1/nodes/late", "PATCH", taint, "merge-patch+json")
    eventually(lambda: taints(cluster, "late"), lambda found: found == [OTHER])
    cluster.remove_hollow_node(late)


def test_another_key_is_a_setting_and_none_leaves_all(cluster: ControlPlane, start: Start) -> None:
    tainted(cluster, "p1", TAINT, OTHER)
    set_condition(cluster, "p1", "True")
    with start("none", "--startup-taint", "") as controller:
        controller.wait_leading()
        time.sleep(3.0)  # for what is not to happen
        assert taints(cluster, "p1") == [TAINT, OTHER]
        assert controller.terminate() == 0
    start("other", "--startup-taint", OTHER["key"])
    eventually(lambda: taints(cluster, "p1"), lambda found: found == [TAINT])


def test_taints_that_others_write_at_the_same_time_are_kept(
    three_nodes: ControlPlane, start: Start
) -> None:
    """On nodes that are Ready: on others the node controller writes the whole list of taints, and
    may take off what was added meanwhile."""
    cluster, names = three_nodes, ("n1", "n2", "n3")
    start().wait_leading()
    for name in names:
        patch = {"spec": {"taints": [OTHER, TAINT]}}
        cluster.api(f"/api/v1/nodes/{name}", "PATCH", patch, "merge-patch+json")
        set_condition(cluster, name, "True")
    for turn in range(20):
        for name in names:
            eventually(partial(_add_taint, cluster, name, f"example.com/t{turn}"))
    wanted = [*(f"example.com/t{turn}" for turn in reversed(range(20))), OTHER["key"]]
    for name in names:
        eventually(lambda name=name: [t["key"] for t in taints(cluster, name)], wanted.__eq__)  # type: ignore[misc]


def _add_taint(cluster: ControlPlane, node: str, key: str) -> bool:
    """As others do it: read, change, write with the version that was read."""
    found = cluster.api(f"/api/v1/nodes/{node}")
    taint = {"key": key, "effect": "NoExecute"}
    found["spec"]["taints"] = [taint, *found["spec"].get("taints", [])]
    cluster.api(f"/api/v1/nodes/{node}", "PUT", found)
    return True


# Outages


def test_an_outage_downgrades_nothing_and_is_caught_up_with(
    cluster: ControlPlane, start: Start
) -> None:
    cluster.plain_node("p1")
    report(cluster, "p1", llama=READY)
    cached_model(cluster, "llama")
    controller = start()
    before = becomes(cluster, "llama", "AllNodesReady")
    cluster.stop_api_server()
    controller.wait_for_event("watch.failed")
    controller.wait_for_event("controller.leads_no_more", 30)
    assert controller.get("/livez") == "ok\n"
    assert controller.get("/readyz") == "ok\n"
    found = controller.metrics()
    assert found[("modelcache_controller_objects", "nodecaches")] == 1
    assert found[("modelcache_controller_watch_failing", "nodes")] == 1
    cluster.start_api_server()
    assert status(cluster, "llama") == before
    report(cluster, "p1", llama=DENIED)
    becomes(cluster, "llama", "AuthFailed", 120)
    assert controller.metrics()[("modelcache_controller_watch_failing", "nodes")] == 0


def test_nothing_is_written_before_everything_was_listed(
    cluster: ControlPlane, start: Start
) -> None:
    """Without the right to see NodeCaches it concludes nothing from seeing none."""
    cluster.plain_node("p1")
    report(cluster, "p1", llama=READY)
    cached_model(cluster, "llama")
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/modelcache-controller"
    rules = cluster.api(role)["rules"]
    less = [rule for rule in rules if rule["resources"] != ["nodecaches"]]
    cluster.api(role, "PATCH", {"rules": less}, "merge-patch+json")
    try:
        controller = start()
        controller.wait_leading()
        controller.wait_for_event("watch.failed")
        time.sleep(3.0)  # for what is not to happen
        assert status(cluster, "llama") == {}
        with pytest.raises(OSError, match="503"):
            controller.get("/readyz")
    finally:
        cluster.api(role, "PATCH", {"rules": rules}, "merge-patch+json")
    becomes(cluster, "llama", "AllNodesReady", 60)
    assert controller.get("/readyz") == "ok\n"


def test_an_older_crd_that_drops_fields_is_not_told_them_over_and_over(
    cluster: ControlPlane, start: Start
) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/cachedmodels.modelcache.dev"
    crd = cluster.api(path)
    older = json.loads(json.dumps(crd))
    (version,) = older["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["readyNodes"]
    version["additionalPrinterColumns"] = []
    cluster.api(path, "PUT", older)
    try:
        cluster.plain_node("p1")
        report(cluster, "p1", llama=READY)
        cached_model(cluster, "llama")
        requests = Requests(cluster)
        start()
        becomes(cluster, "llama", "AllNodesReady")
        assert "readyNodes" not in status(cluster, "llama")
        time.sleep(5.0)  # for what is not to happen
        assert requests.statuses("llama") == 1
    finally:
        now = cluster.api(path)
        now["spec"] = crd["spec"]
        cluster.api(path, "PUT", now)
