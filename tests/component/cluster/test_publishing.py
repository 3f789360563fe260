"""What a node reports, brought to a real API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import (
    Condition,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.nodecache import NodeMeta
from modelcache.cluster.client import NODE_CACHES, Client, Object
from modelcache.cluster.ownnode import OwnNode, keep_node
from modelcache.cluster.publishing import NodeCacheWriter, Publisher
from modelcache.errors import ClusterError, Reason
from modelcache.planning.labelling import labels, unlabelled
from modelcache.service.reporting import DISK_CONDITION, disk_condition, not_shown
from modelcache.store.sickness import WELL, DiskState, Health
from tests.support.apifaults import ApiFaults, Refuse
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

NODE, BOOT = "published", "boot-1"
CONDITION = "ModelCacheReady"
NODE_CACHE = f"/apis/modelcache.dev/v1alpha1/nodecaches/{NODE}"


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def record(
        self,
        regarding: Object,
        type_: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        self.told.append((type_, reason, note))


class Node:
    """One node's side, driven by hand: `now` is its clock, `models` what it has to report."""

    def __init__(
        self, cluster: ControlPlane, kubeconfig: Path, before: NodeCache | None = None
    ) -> None:
        self.now = 0.0
        self.models: list[ModelReport] = []
        self.ready = "False"
        self.most_labels = 32
        self.ready_in_boot: str | None = None
        self.disk: Condition | None = None
        self.cluster = cluster
        self.events = Events()
        self.client = Client.connect(kubeconfig)
        keep = keep_node(CONDITION, (DISK_CONDITION,))
        own = OwnNode(
            self.client,
            NODE,
            CONDITION,
            lambda: keep(cluster.api(f"/api/v1/nodes/{NODE}")),
            (DISK_CONDITION,),
        )
        self.publisher = Publisher(
            node=own,
            writer=NodeCacheWriter(self.client, NODE, 5.0, clock=lambda: self.now),
            events=self.events,
            report=self.report,
            condition=CONDITION,
            boot_id=BOOT,
            before=before,
            disk_condition=DISK_CONDITION,
            clock=lambda: self.now,
        )

    def report(self) -> NodeCache:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        condition = Condition(
            type=CONDITION,
            status=self.ready,  # type: ignore[arg-type]
            reason="AllReady" if self.ready == "True" else "ModelsPending",
            message="m",
            last_transition_time=moment,
        )
        return NodeCache(
            metadata=NodeMeta(name=NODE),
            status=NodeCacheStatus(
                agent_version="1",
                root="/r",
                labels=labels(self.models, self.most_labels),
                unlabelled=unlabelled(self.models, self.most_labels),
                ready_in_boot=self.ready_in_boot,
                models=tuple(self.models),
                disk=DiskReport(capacity=1, available=1, used=0, reserved=0),
                conditions=(condition, *([self.disk] if self.disk else [])),
            ),
        )

    def publish(self) -> float | None:
        return self.publisher.cycle()

    def labels(self) -> dict[str, str]:
        return self.cluster.node_labels(NODE)

    def patches(self) -> int:
        found = self.cluster.requests(verb="patch", resource="nodes", name=NODE, subresource="")
        return sum(1 for entry in found if entry["userAgent"].startswith("modelcache-"))

    def condition(self, kind: str = CONDITION) -> dict[str, Any]:
        node = self.cluster.api(f"/api/v1/nodes/{NODE}")
        found = [c for c in node["status"].get("conditions", []) if c["type"] == kind]
        return dict(found[0]) if found else {}


def ready(name: str, revision: str = "a" * 40, priority: int = 0) -> ModelReport:
    return ModelReport(
        name=name, state=ModelState.READY, revision=revision, priority=priority, files=3
    )


def fetching(name: str, done: int) -> ModelReport:
    return ModelReport(name=name, state=ModelState.DOWNLOADING, bytes_done=done, bytes_total=100)


def failed(name: str, reason: Reason, attempts: int = 1) -> ModelReport:
    message = f"because of {reason.value}"
    return ModelReport(
        name=name, state=ModelState.FAILED, reason=reason, message=message, attempts=attempts
    )


@pytest.fixture
def make(cluster: ControlPlane) -> Iterator[Callable[..., Node]]:
    cluster.plain_node(NODE, {"gpu": "true"})
    made: list[Node] = []

    def make(kubeconfig: Path | None = None, before: NodeCache | None = None) -> Node:
        made.append(Node(cluster, kubeconfig or cluster.kubeconfig, before))
        return made[-1]

    yield make
    for node in made:
        node.client.close()


@pytest.fixture
def node(make: Callable[..., Node]) -> Node:
    return make()


def test_labels_come_and_go_with_the_models_and_others_stay(node: Node) -> None:
    node.models = [ready("a"), ready("b", "b" * 40)]
    node.publish()
    assert node.labels() == {
        "gpu": "true",
        "modelcache.dev/model.a": "Ready",
        "modelcache.dev/revision.a": "a" * 12,
        "modelcache.dev/model.b": "Ready",
        "modelcache.dev/revision.b": "b" * 12,
    }
    node.models = [ready("b", "c" * 40)]
    node.publish()
    assert node.labels() == {
        "gpu": "true",
        "modelcache.dev/model.b": "Ready",
        "modelcache.dev/revision.b": "c" * 12,
    }
    assert node.patches() == 2, "one for each change"


def test_what_is_there_already_is_not_written_again(make: Callable[..., Node]) -> None:
    first = make()
    first.models = [ready("a")]
    first.publish()
    before = first.patches()
    second = make()
    second.models = [ready("a")]
    for _ in range(3):
        second.now += 100
        second.publish()
    assert second.patches() == before


def test_a_label_that_somebody_took_off_comes_back(node: Node) -> None:
    node.models = [ready("a")]
    node.publish()
    node.cluster.label_node(NODE, {"modelcache.dev/model.a": None})
    node.publish()
    assert node.labels()["modelcache.dev/model.a"] == "Ready"


def test_of_too_many_models_the_most_important_are_labelled_and_the_rest_is_said(
    node: Node,
) -> None:
    node.most_labels = 2
    node.models = [ready("a"), ready("b", priority=9), ready("c", priority=5), ready("d")]
    node.publish()
    ours = {key for key in node.labels() if key.startswith("modelcache.dev/model.")}
    assert ours == {"modelcache.dev/model.b", "modelcache.dev/model.c"}
    assert node.cluster.api(NODE_CACHE)["status"]["unlabelled"] == ["a", "d"]
    (told,) = [event for event in node.events.told if event[1] == "TooManyModels"]
    assert told[0] == "Warning"
    node.publish()
    assert [event[1] for event in node.events.told].count("TooManyModels") == 1


def test_the_condition_stays_true_for_the_rest_of_the_boot(node: Node) -> None:
    node.cluster.api(
        f"/api/v1/nodes/{NODE}/status",
        "PATCH",
        {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        "strategic-merge-patch+json",
    )
    node.models = [fetching("a", 1)]
    node.publish()
    assert (node.condition()["status"], node.condition()["reason"]) == ("False", "ModelsPending")
    assert node.condition()["message"] == "0 of 1 models are ready"
    node.models, node.ready, node.ready_in_boot = [ready("a")], "True", BOOT
    node.publish()
    assert node.condition()["status"] == "True"
    node.models, node.ready = [ready("a"), fetching("b", 1)], "False"
    node.publish()
    assert node.condition()["status"] == "True", "what is wanted later doesn't matter"
    node.ready_in_boot = "an earlier boot"
    node.publish()
    assert node.condition()["status"] == "False"
    kinds = {c["type"] for c in node.cluster.api(f"/api/v1/nodes/{NODE}")["status"]["conditions"]}
    assert kinds == {"Ready", CONDITION}, "the kubelet's are left alone"


def test_a_sick_disk_is_said_by_the_node_and_takes_the_labels_off(node: Node) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    node.models = [ready("m")]
    node.disk = disk_condition(WELL, None, moment)
    node.publish()
    assert node.condition(DISK_CONDITION)["status"] == "True"
    assert "modelcache.dev/model.m" in node.labels()
    assert not [told for told in node.events.told if told[1].startswith("Disk")]
    node.publish()
    written = len(node.cluster.requests(verb="patch", resource="nodes", name=NODE))
    node.publish()
    assert len(node.cluster.requests(verb="patch", resource="nodes", name=NODE)) == written
    sick = Health(DiskState.DOWN, "DiskReadOnly", "/cache: it was made read-only")
    healthy, node.models = node.models, list(not_shown(node.models, sick))
    node.disk = disk_condition(sick, node.disk, moment)
    node.publish()
    node.publish()
    found = node.condition(DISK_CONDITION)
    assert (found["status"], found["reason"]) == ("False", "DiskReadOnly")
    assert node.labels() == {"gpu": "true"}
    node.models, node.disk = healthy, disk_condition(WELL, node.disk, moment)
    node.publish()
    assert node.condition(DISK_CONDITION)["status"] == "True"
    assert "modelcache.dev/model.m" in node.labels()
    told = [each for each in node.events.told if each[1].startswith("Disk")]
    assert told == [
        ("Warning", "DiskReadOnly", "/cache: it was made read-only"),
        ("Normal", "DiskHealthy", "the cache's disk can be read and written"),
    ]


def test_the_nodecache_belongs_to_the_node_and_is_replaced_as_a_whole(node: Node) -> None:
    node.models = [ready("a"), ready("b")]
    node.publish()
    found = node.cluster.api(NODE_CACHE)
    (owner,) = found["metadata"]["ownerReferences"]
    assert owner["uid"] == node.cluster.api(f"/api/v1/nodes/{NODE}")["metadata"]["uid"]
    assert [model["name"] for model in found["status"]["models"]] == ["a", "b"]
    node.models, node.now = [ready("b")], 100.0
    node.publish()
    status = node.cluster.api(NODE_CACHE)["status"]
    assert [model["name"] for model in status["models"]] == ["b"]
    assert set(status["labels"]) == {"modelcache.dev/model.b", "modelcache.dev/revision.b"}


def test_progress_is_written_now_and_then_and_a_change_of_state_sooner(node: Node) -> None:
    def written() -> int:
        (model,) = node.cluster.api(NODE_CACHE)["status"]["models"]
        return int(model.get("bytesDone", 0))

    node.models = [fetching("a", 1)]
    node.publish()
    node.models, node.now = [fetching("a", 2)], 6.0
    assert node.publish() == pytest.approx(9.0)
    assert written() == 1
    node.now = 15.0
    node.publish()
    assert written() == 2
    node.models, node.now = [failed("a", Reason.NOT_FOUND)], 17.0
    assert node.publish() == pytest.approx(3.0)
    node.now = 20.0
    node.publish()
    (model,) = node.cluster.api(NODE_CACHE)["status"]["models"]
    assert model["state"] == "Failed"


def test_what_is_in_memory_is_no_reason_to_write_each_minute(node: Node) -> None:
    def written() -> int:
        (model,) = node.cluster.api(NODE_CACHE)["status"]["models"][:1]
        return int(model["residentBytes"])

    def resident(size: int) -> ModelReport:
        return ready("a").model_copy(update={"resident_bytes": size})

    node.models = [resident(1)]
    node.publish()
    node.models, node.now = [resident(2)], 60.0
    assert node.publish() == pytest.approx(540.0)
    assert written() == 1
    node.models, node.now = [resident(2), fetching("b", 1)], 61.0
    node.publish()
    assert written() == 2, "with what else is new"
    node.models, node.now = [resident(3), fetching("b", 2)], 76.0
    node.publish()
    assert written() == 3
    node.models, node.now = [resident(4), fetching("b", 2)], 676.0
    node.publish()
    assert written() == 4


def test_a_nodecache_that_was_deleted_comes_back(node: Node) -> None:
    node.models = [ready("a")]
    node.publish()
    node.cluster.kubectl("delete", "nodecache", NODE)
    node.models, node.now = [ready("a"), ready("b")], 10.0
    node.publish()
    assert len(node.cluster.api(NODE_CACHE)["status"]["models"]) == 2
    node.cluster.kubectl("delete", "nodecache", NODE)
    node.now = 1000.0
    node.publish()
    assert node.cluster.find(NODE_CACHE) is not None, "also where nothing is new"


def test_who_may_not_label_still_reports(make: Callable[..., Node], cluster: ControlPlane) -> None:
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reports-only"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "reports-only"},
            "rules": [
                {
                    "apiGroups": ["modelcache.dev"],
                    "resources": ["nodecaches", "nodecaches/status"],
                    "verbs": ["get", "create", "patch"],
                }
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "reports-only"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "reports-only",
            },
            "subjects": [
                {"kind": "ServiceAccount", "name": "reports-only", "namespace": "default"}
            ],
        },
    )
    node = make(cluster.service_account_kubeconfig("default", "reports-only"))

    def may() -> bool:
        try:
            node.client.get(NODE_CACHES, NODE)
        except ClusterError as error:
            return error.status == 404
        return True

    # Rights are looked up in what the server has seen of them, which is a moment behind.
    eventually(may, what="its rights")
    node.models = [ready("a")]
    pause = node.publish()
    assert pause is not None
    assert pause > 0, "and tries again"
    assert "modelcache.dev/model.a" not in node.labels()
    assert cluster.api(NODE_CACHE)["status"]["models"][0]["name"] == "a"


def test_events_tell_of_changes_alone(make: Callable[..., Node]) -> None:
    before = Node.report
    node = make()
    node.models = [fetching("a", 1), failed("b", Reason.AUTH_FAILED)]
    node.publish()
    node.models = [ready("a"), failed("b", Reason.AUTH_FAILED, attempts=2)]
    node.publish()
    node.publish()
    one = ready("a", "b" * 40).model_copy(update={"files": 1})
    node.models = [one, failed("b", Reason.NOT_FOUND, attempts=3)]
    node.publish()
    node.models = [ready("a", "b" * 40)]
    node.publish()
    assert [event[:2] for event in node.events.told] == [
        ("Warning", "ModelAuthFailed"),
        ("Normal", "ModelReady"),
        ("Normal", "ModelReady"),
        ("Warning", "ModelNotFound"),
        ("Normal", "ModelRemoved"),
    ]
    notes = [note for _, reason, note in node.events.told if reason == "ModelReady"]
    assert notes == [
        f"a: revision {'a' * 12} is ready, 3 files",
        f"a: revision {'b' * 12} is ready, 1 file",
    ]
    restarted = make(before=before(node))
    restarted.models = list(node.models)
    restarted.publish()
    assert restarted.events.told == []


def test_news_do_not_shorten_a_pause(
    make: Callable[..., Node], cluster: ControlPlane, faults: ApiFaults, tmp_path: Path
) -> None:
    """A node that downloads has news every two seconds, and there may be thousands of them."""
    node = make(faults.kubeconfig(cluster.kubeconfig, tmp_path / "faulty.kubeconfig"))
    faults.on(Refuse(503, retry_after=30))
    for done in range(10):
        node.models = [ready("a"), fetching("b", done)]
        pause = node.publish()
        assert pause is not None
        assert pause >= 30.0 - done
        node.now += 1.0
    writes = [(each.method, each.path) for each in faults.requests()]
    assert len(writes) == len(set(writes)), "each but once"
    assert "modelcache.dev/model.a" not in node.labels()
    faults.well()
    node.now += 30.0
    assert node.publish() is None
    assert "modelcache.dev/model.a" in node.labels()


def test_an_api_server_that_is_away_is_asked_with_growing_pauses(node: Node) -> None:
    node.models = [ready("a")]
    node.publish()
    node.cluster.stop_api_server()
    # What was seen of the node is still known, as it is to a Mirror.
    seen = {"name": NODE, "uid": "u", "version": 1, "labels": {}, "condition": None}
    node.publisher = Publisher(
        node=OwnNode(node.client, NODE, CONDITION, lambda: seen),
        writer=NodeCacheWriter(node.client, NODE, 5.0, clock=lambda: node.now),
        events=node.events,
        report=node.report,
        condition=CONDITION,
        boot_id=BOOT,
        before=None,
        clock=lambda: node.now,
    )
    pauses = []
    for _ in range(12):
        pauses.append(node.publish() or 0.0)
        node.now += pauses[-1]
    assert 0.5 <= pauses[0] <= 1.0
    assert 30.0 <= pauses[-1] <= 60.0
    node.cluster.start_api_server()
    assert node.publish() is None
