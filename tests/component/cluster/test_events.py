"""Events on the real API server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelcache.cluster import events as recording
from modelcache.cluster.client import EVENTS, Client
from modelcache.cluster.events import Recorder
from tests.support.apifaults import ApiFaults, Refuse, Swallow
from tests.support.cluster.plane import ControlPlane

NODE = {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "u-1"}
MODEL = {"apiVersion": "modelcache.dev/v1alpha1", "kind": "CachedModel", "name": "llama"}


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_events(cluster: ControlPlane) -> Iterator[None]:
    yield
    for event in sent(cluster):
        metadata = event["metadata"]
        path = f"/apis/events.k8s.io/v1/namespaces/{metadata['namespace']}/events"
        cluster.api(f"{path}/{metadata['name']}", "DELETE")


def sent(cluster: ControlPlane) -> list[dict[str, Any]]:
    """Ours, by their time."""
    found = cluster.api("/apis/events.k8s.io/v1/events")["items"]
    ours = [e for e in found if e.get("reportingController", "").startswith("modelcache.dev/")]
    return sorted(ours, key=lambda event: str(event["eventTime"]))


def recorder(client: Client, clock: Clock) -> Recorder:
    return Recorder(client, "modelcache.dev/agent", "node-a", clock)


def test_an_event_is_there_for_people(admin: Client, cluster: ControlPlane, clock: Clock) -> None:
    cluster.plain_node("node-a")
    uid = cluster.api("/api/v1/nodes/node-a")["metadata"]["uid"]
    events = recorder(admin, clock)
    about = {**NODE, "uid": uid}
    events.record(about, "Normal", "ModelReady", "Fetch", "llama is ready", MODEL)
    events.cycle()
    (event,) = sent(cluster)
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "ModelReady", "Fetch")
    assert event["note"] == "llama is ready"
    assert event["regarding"]["name"] == "node-a"
    assert event["related"]["name"] == "llama"
    assert event["reportingController"] == "modelcache.dev/agent"
    assert event["reportingInstance"] == "node-a"
    assert "series" not in event
    assert "llama is ready" in cluster.kubectl("describe", "node", "node-a")
    assert events.dropped == 0


def test_the_same_again_is_one_event_with_a_count(
    admin: Client, faults: ApiFaults, faulty: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(faulty, clock)

    def again(note: str) -> None:
        events.record(NODE, "Warning", "FetchFailed", "Fetch", note)
        events.cycle()

    again("first")
    faults.forget()
    for number in range(10):
        clock.now += 5
        again(f"again, {number}")
    assert not faults.requests(), "at most once a minute"
    clock.now += 10
    events.cycle()
    (event,) = sent(cluster)
    assert event["note"] == "first"
    assert event["series"]["count"] == 11
    assert event["series"]["lastObservedTime"] > event["eventTime"]
    assert [request.method for request in faults.requests()] == ["PATCH"]
    events.cycle()
    assert len(faults.requests()) == 1, "nothing is new"
    clock.now += 585
    again("within ten minutes of the last")
    clock.now += 60
    events.cycle()
    assert sent(cluster)[0]["series"]["count"] == 12
    clock.now += 601
    events.cycle()
    again("later")
    assert [event["note"] for event in sent(cluster)] == ["first", "later"]


def test_another_reason_object_or_relation_is_another_event(
    admin: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(admin, clock)
    events.record(NODE, "Normal", "A", "Do", "1")
    events.record(NODE, "Normal", "B", "Do", "2")
    events.record(NODE, "Warning", "A", "Do", "3")
    events.record({**NODE, "uid": "u-2"}, "Normal", "A", "Do", "4")
    events.record(NODE, "Normal", "A", "Do", "5", MODEL)
    events.record(MODEL, "Normal", "A", "Do", "6")
    events.cycle()
    assert sorted(event["note"] for event in sent(cluster)) == list("123456")


def test_an_old_server_takes_them_elsewhere(
    faults: ApiFaults, faulty: Client, cluster: ControlPlane, clock: Clock
) -> None:
    """That of 1.20 takes Events on cluster-scoped objects in kube-system only; newer ones in both,
    and `default` is where people look."""
    events = recorder(faulty, clock)
    for reason in ("A", "B"):
        events.record(NODE, "Normal", reason, "Do", "note")
    events.cycle()
    asked = [request.path.split("/")[5] for request in faults.requests()]
    seen = {event["metadata"]["namespace"] for event in sent(cluster)}
    assert len(sent(cluster)) == 2
    if seen == {"default"}:
        assert asked == ["default", "default"]
    else:
        assert seen == {"kube-system"}
        assert asked == ["default", "kube-system", "kube-system"], "asked once"


def test_of_a_namespaced_object_it_is_in_its_namespace(
    admin: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(admin, clock)
    pod = {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "modelcache-system"}
    events.record(pod, "Normal", "A", "Do", "note")
    events.cycle()
    (event,) = sent(cluster)
    assert event["metadata"]["namespace"] == "modelcache-system"


def test_what_is_too_long_or_odd_is_made_to_fit(
    admin: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = Recorder(admin, "modelcache.dev/agent", "host-" + "x" * 300, clock)
    node = {**NODE, "name": "n" + "-" * 250}
    events.record(node, "Normal", "R" * 200, "A" * 200, "ä" * 2000)
    events.record(NODE, "Normal", "Odd", "Do", "name \udcff of a file\0")
    events.cycle()
    long, odd = sorted(sent(cluster), key=lambda event: -len(event["note"]))
    assert events.dropped == 0
    assert len(long["note"].encode()) in (1023, 1024)
    assert long["note"].endswith("ä…")
    assert len(long["reason"].encode()) <= 128
    assert odd["note"].startswith("name ? of a file")


def test_what_the_server_does_not_want_is_dropped_and_the_next_is_sent(
    faults: ApiFaults, faulty: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(faulty, clock)
    with capture_logs() as logs:
        faults.on(Refuse(403), times=2)
        faults.on(Refuse(404), times=1)
        for number in range(5):
            events.record({**NODE, "uid": f"u-{number}"}, "Normal", "A", "Do", str(number))
        events.record(NODE, "Nonsense", "A", "Do", "no such type")
        events.cycle()
    assert [event["note"] for event in sent(cluster)] == ["3", "4"]
    assert events.dropped == 4
    told = [log["message"] for log in logs if log["event"] == "events.failed"]
    assert [code for text in told for code in ("403", "404", "422") if code in text] == [
        "403",
        "404",
        "422",
    ]


def test_an_outage_holds_nothing_up_and_costs_the_oldest(
    faults: ApiFaults,
    faulty: Client,
    cluster: ControlPlane,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "_MOST_WAITING", 5)
    events = recorder(faulty, clock)
    faults.on(Refuse(503))
    end = clock.now + 3600
    number = 0
    while clock.now < end:
        if number < 8:
            events.record({**NODE, "uid": f"u-{number}"}, "Normal", "A", "Do", str(number))
            number += 1
        clock.now += max(1.0, events.cycle())
    assert events.dropped == 3
    assert len(faults.requests()) <= 3600 / 60 + 8, "in growing pauses"
    faults.well()
    clock.now += 200
    events.cycle()
    assert [event["note"] for event in sent(cluster)] == ["3", "4", "5", "6", "7"]


def test_it_is_asked_again_when_the_server_says(
    faults: ApiFaults, faulty: Client, clock: Clock
) -> None:
    events = recorder(faulty, clock)
    faults.on(Refuse(429, retry_after=42), times=1)
    events.record(NODE, "Normal", "A", "Do", "note")
    assert events.cycle() >= 42
    assert len(faults.requests()) == 1
    events.cycle()
    assert len(faults.requests()) == 1, "woken early, it waits"


def test_an_answer_that_never_came_makes_no_second_event(
    faults: ApiFaults, faulty: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(faulty, clock)
    events.record(NODE, "Normal", "Before", "Do", "finds out where to")
    events.cycle()
    faults.on(Swallow(), method="POST", times=1)
    events.record(NODE, "Normal", "A", "Do", "note")
    for _ in range(3):
        clock.now += max(1.0, events.cycle())
    events.record(NODE, "Normal", "A", "Do", "again")
    clock.now += 61
    events.cycle()
    clock.now += 61
    events.cycle()
    event = next(event for event in sent(cluster) if event["reason"] == "A")
    assert len(sent(cluster)) == 2
    assert event["series"]["count"] == 2
    assert events.dropped == 0


def test_an_event_that_has_expired_is_begun_anew(
    admin: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(admin, clock)

    def again() -> None:
        events.record(NODE, "Normal", "A", "Do", "note")
        events.cycle()

    again()
    (old,) = sent(cluster)
    admin.delete(EVENTS, old["metadata"]["name"], old["metadata"]["namespace"])
    again()
    clock.now += 61
    events.cycle()
    again()
    (new,) = sent(cluster)
    assert new["metadata"]["name"] != old["metadata"]["name"]


def test_an_object_has_so_many_at_once(admin: Client, cluster: ControlPlane, clock: Clock) -> None:
    """Something that flaps in ever new ways doesn't fill the database."""
    events = recorder(admin, clock)

    def flap(first: int, count: int) -> None:
        for number in range(first, first + count):
            events.record(NODE, "Normal", f"R{number}", "Do", "note")
        events.record({**NODE, "name": f"other-{first}"}, "Normal", "A", "Do", "note")
        events.cycle()

    flap(0, 30)
    assert len(sent(cluster)) == 25 + 1
    assert events.dropped == 5
    clock.now += 120
    flap(100, 10)
    assert len(sent(cluster)) == 27 + 2


def test_a_burst_is_sent_in_rounds(faults: ApiFaults, faulty: Client, clock: Clock) -> None:
    events = recorder(faulty, clock)
    for number in range(60):
        events.record({**NODE, "uid": f"u-{number}"}, "Normal", "A", "Do", "note")
    rounds = []
    for _ in range(2):
        faults.forget()
        wait = events.cycle()
        assert wait >= 1.0
        rounds.append(len(faults.requests(method="POST")))
        clock.now += wait
    assert rounds[0] <= 51, "one more, to find out where"
    assert rounds[1] == 10


def test_recording_from_many_threads_while_it_sends(
    admin: Client, cluster: ControlPlane, clock: Clock
) -> None:
    events = recorder(admin, clock)

    def record(who: int) -> None:
        for _ in range(200):
            events.record({**NODE, "uid": f"u-{who}"}, "Normal", "A", "Do", "note")

    threads = [threading.Thread(target=record, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        events.cycle()
    for _ in range(20):
        events.cycle()
    clock.now += 61
    events.cycle()
    assert [event["series"]["count"] for event in sent(cluster)] == [200] * 4
    assert events.dropped == 0


def test_what_a_role_must_allow(cluster: ControlPlane, clock: Clock) -> None:
    """create and patch of events, and nothing else."""
    accounts = "/api/v1/namespaces/modelcache-system/serviceaccounts"
    cluster.api(accounts, "POST", {"metadata": {"name": "recorder"}})
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "recorder"}}
    rules = [
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "recorder"}
    who = {"kind": "ServiceAccount", "name": "recorder", "namespace": "modelcache-system"}
    binding = {**rbac, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [who]}
    cluster.apply({**rbac, "kind": "ClusterRole", "rules": rules}, binding)
    client = Client.connect(cluster.service_account_kubeconfig("modelcache-system", "recorder"))
    try:
        events = recorder(client, clock)
        for _ in range(2):
            events.record(NODE, "Normal", "A", "Do", "note")
        events.cycle()
        clock.now += 61
        events.cycle()
        (event,) = sent(cluster)
        assert event["series"]["count"] == 2
        assert events.dropped == 0
    finally:
        client.close()
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "recorder")
        cluster.api(f"{accounts}/recorder", "DELETE")


def test_kubectl_get_events_shows_it(admin: Client, cluster: ControlPlane, clock: Clock) -> None:
    events = recorder(admin, clock)
    events.record(NODE, "Warning", "FetchFailed", "Fetch", "llama: no space")
    events.cycle()
    shown = cluster.kubectl("get", "events", "--all-namespaces")
    line = next(line for line in shown.splitlines() if "llama: no space" in line)
    assert "Warning" in line
    assert "FetchFailed" in line
    assert "node/node-a" in line
