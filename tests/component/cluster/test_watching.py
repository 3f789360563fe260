"""A Mirror of the real API server, by way of faults."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelcache.cluster import client as clients
from modelcache.cluster.client import CACHED_MODELS, LEASES, Client, Object, Resource
from modelcache.cluster.watching import Mirror
from tests.support.apifaults import (
    ApiFaults,
    Close,
    CutAfter,
    EmptyList,
    Fault,
    Hang,
    Refuse,
    Say,
    Stream,
    error_event,
)
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.mirrors import Running, model, names

MODELS = "/cachedmodels"


def mirror_of(client: Client, resource: Resource = CACHED_MODELS, **options: Any) -> Mirror:
    return Mirror(client, resource, **{"spread_seconds": 0.05, **options})


def there(mirror: Mirror, *wanted: str) -> None:
    eventually(lambda: names(mirror), lambda seen: seen == set(wanted), timeout=10, pause=0.01)


def watching(mirror: Mirror) -> None:
    """It has a stream now."""
    eventually(lambda: mirror._stream is not None, timeout=10, pause=0.01)


def watch_faults(faults: ApiFaults) -> int:
    return len(faults.requests(watch=True, path=MODELS))


def lists(faults: ApiFaults) -> list[dict[str, str]]:
    """What was asked in each list."""
    return [each.query for each in faults.requests(watch=False, method="GET", path=MODELS)]


# What it is for


def test_it_lists_and_then_sees_each_change(admin: Client) -> None:
    admin.create(CACHED_MODELS, model("a"))
    admin.create(CACHED_MODELS, model("b"))
    changes = itertools.count()
    mirror = mirror_of(admin, on_change=lambda: next(changes) and None)
    assert (names(mirror), mirror.listed_at) == (set(), None)
    with Running(mirror):
        there(mirror, "a", "b")
        assert mirror.listed_at is not None
        before = mirror.objects
        admin.create(CACHED_MODELS, model("c"))
        there(mirror, "a", "b", "c")
        admin.patch(CACHED_MODELS, "a", {"spec": {"priority": 7}})
        eventually(lambda: mirror.objects["a"]["spec"]["priority"] == 7)
        admin.delete(CACHED_MODELS, "b")
        there(mirror, "a", "c")
        assert set(mirror.deleted) == {"b"}
        assert set(before) == {"a", "b"}, "what somebody looks at never changes"
        admin.create(CACHED_MODELS, model("b"))
        there(mirror, "a", "b", "c")
        assert not mirror.deleted
        assert mirror.objects is mirror.objects
    assert next(changes) == 5
    assert mirror.trouble is None


def test_an_empty_kind_is_a_change_once(admin: Client) -> None:
    changes: list[int] = []
    mirror = mirror_of(admin, on_change=lambda: changes.append(1), resync_seconds=0.2)
    with Running(mirror):
        eventually(lambda: mirror.listed_at is not None)
        first = mirror.listed_at
        eventually(lambda: mirror.listed_at != first)
    assert len(changes) == 1


def test_what_is_not_kept_is_no_news(admin: Client) -> None:
    def keep(thing: Object) -> Object:
        return {"priority": thing["spec"].get("priority")}

    admin.create(CACHED_MODELS, model("a"))
    changes: list[int] = []
    mirror = mirror_of(admin, keep=keep, on_change=lambda: changes.append(1))
    with Running(mirror):
        there(mirror, "a")
        before = mirror.objects
        admin.patch(CACHED_MODELS, "a", {"metadata": {"labels": {"x": "y"}}})
        admin.patch(CACHED_MODELS, "a", {"spec": {"priority": 3}})
        eventually(lambda: mirror.objects["a"] == {"priority": 3})
        assert before["a"] != {"priority": 3}
    assert len(changes) == 2


def test_one_object_that_cannot_be_read_stops_no_other(admin: Client) -> None:
    def keep(thing: Object) -> Object:
        if thing["spec"].get("priority") == 13:
            raise KeyError("odd")
        return {"priority": thing["spec"].get("priority")}

    for name in ("a", "b"):
        admin.create(CACHED_MODELS, model(name, priority=1))
    admin.create(CACHED_MODELS, model("c", priority=13))
    mirror = mirror_of(admin, keep=keep)
    with capture_logs() as logs, Running(mirror):
        there(mirror, "a", "b")
        admin.patch(CACHED_MODELS, "a", {"spec": {"priority": 13}})
        admin.patch(CACHED_MODELS, "b", {"spec": {"priority": 2}})
        eventually(lambda: mirror.objects["b"] == {"priority": 2})
        assert mirror.objects["a"] == {"priority": 1}, "what was known of it stands"
    assert [log["object"] for log in logs if log["event"] == "watch.unreadable"] == ["c", "a"]


def test_namespaces_and_selectors(admin: Client, cluster: ControlPlane) -> None:
    def lease(name: str, **labels: str) -> Object:
        metadata = {"name": name, "labels": labels}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}

    space = "modelcache-system"
    admin.create(LEASES, lease("in", wanted="yes"), space)
    admin.create(LEASES, lease("out"), space)
    mirror = mirror_of(admin, LEASES, namespace=space, labels="wanted=yes")
    with Running(mirror):
        there(mirror, f"{space}/in")
        admin.patch(LEASES, "out", {"metadata": {"labels": {"wanted": "yes"}}}, namespace=space)
        there(mirror, f"{space}/in", f"{space}/out")
        admin.patch(LEASES, "in", {"metadata": {"labels": {"wanted": "no"}}}, namespace=space)
        there(mirror, f"{space}/out")


def test_many_objects_are_listed_and_trimmed_page_by_page(
    admin: Client, faults: ApiFaults, faulty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrimmed, the nodes of a large cluster are more than the controller may have of memory."""
    monkeypatch.setattr(clients, "_PAGE", 2)
    wanted = list("abcde")
    for name in wanted:
        admin.create(CACHED_MODELS, model(name))
    pages_at_trimming: list[int] = []

    def keep(thing: Object) -> Object:
        pages_at_trimming.append(len(lists(faults)))
        return {"name": thing["metadata"]["name"]}

    faults.on(Refuse(410), watch=False, times=1, when=lambda each: "continue" in each.query)
    mirror = mirror_of(faulty, keep=keep, paged=True)
    with capture_logs() as logs, Running(mirror):
        there(mirror, *wanted)
        watching(mirror)
        admin.create(CACHED_MODELS, model("f"))
        there(mirror, *wanted, "f")
    assert [each.get("limit") for each in lists(faults)] == ["2"] * 5
    assert not any("resourceVersion" in each for each in lists(faults))
    first, again = [1, 1], [3, 3, 4, 4, 5]
    assert pages_at_trimming[:-1] == [*first, *again], "pages that expire are listed anew"
    assert not [log for log in logs if log["log_level"] == "warning"]


# Streams that end


def test_a_closed_connection_is_resumed_without_a_list(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    mirror = mirror_of(faulty)
    with capture_logs() as logs, Running(mirror):
        there(mirror, "a")
        for number in range(4):
            watching(mirror)
            admin.create(CACHED_MODELS, model(f"seen-{number}"))
            eventually(lambda n=number: f"seen-{n}" in mirror.objects, pause=0.01)  # type: ignore[misc]
            with faults.away():
                admin.create(CACHED_MODELS, model(f"unseen-{number}"))
            eventually(lambda n=number: f"unseen-{n}" in mirror.objects, pause=0.01)  # type: ignore[misc]
        admin.delete(CACHED_MODELS, "seen-0")
        eventually(lambda: "seen-0" not in mirror.objects)
    assert len(lists(faults)) == 1
    assert len(names(mirror)) == 8
    assert all(log["event"] in ("watch.failed", "watch.recovered") for log in logs)


def test_a_line_cut_in_the_middle_is_had_again(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    faults.on(CutAfter(2), watch=True, times=5)
    mirror = mirror_of(faulty)
    with Running(mirror):
        there(mirror, "a")
        for number in range(12):
            admin.create(CACHED_MODELS, model(f"more-{number}"))
        eventually(lambda: len(mirror.objects) == 13, pause=0.01)
        versions = [
            int(each.query["resourceVersion"]) for each in faults.requests(watch=True, path=MODELS)
        ]
    assert len(versions) == 6
    assert versions == sorted(set(versions)), "each goes on where the last one ended"
    assert len(lists(faults)) == 1
    assert mirror.trouble is None


def test_a_stream_that_the_server_ends_is_resumed_at_once(
    faults: ApiFaults, faulty: Client
) -> None:
    mirror = mirror_of(faulty, watch_seconds=1.0)
    with Running(mirror) as running:
        eventually(lambda: watch_faults(faults) >= 3, timeout=15)
    assert len(lists(faults)) == 1
    assert max(running.waits[:2]) <= 1.0


def test_a_version_that_is_too_old_is_listed_anew(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    for fault in (Refuse(410), error_event(410)):
        faults.forget()
        name = f"during-{type(fault).__name__.lower()}"
        mirror = mirror_of(faulty)
        with capture_logs() as logs, Running(mirror):
            watching(mirror)
            faults.on(fault, watch=True, times=1)
            with faults.away():
                admin.create(CACHED_MODELS, model(name))
            eventually(lambda m=mirror, n=name: n in m.objects, pause=0.01)  # type: ignore[misc]
            watching(mirror)
        first, second = lists(faults)
        assert first["resourceVersion"] == "0"
        assert second["resourceVersion"] != "0", "not from before what is known"
        assert second["resourceVersionMatch"] == "NotOlderThan"
        told = [log["message"] for log in logs if log["event"] == "watch.failed"]
        assert not [message for message in told if "410" in message], "it is an ordinary thing"


@pytest.mark.parametrize("status", [500, 504, 403])
def test_an_error_in_the_stream_is_followed_by_a_list(
    admin: Client, faults: ApiFaults, faulty: Client, status: int
) -> None:
    """The server can't go on from there: it wouldn't the next time."""
    faults.on(error_event(status), watch=True, times=1)
    mirror = mirror_of(faulty)
    with Running(mirror):
        eventually(lambda: watch_faults(faults) == 2)
        watching(mirror)
    assert len(lists(faults)) == 2


def test_a_stream_that_worked_and_is_cut_is_no_trouble(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    """Proxies cut streams that are old, or quiet, every minute."""
    mirror = mirror_of(faulty, spread_seconds=1.0)
    with capture_logs() as logs, Running(mirror) as running:
        for number in range(5):
            watching(mirror)
            admin.create(CACHED_MODELS, model(f"m-{number}"))
            eventually(lambda n=number: f"m-{n}" in mirror.objects, pause=0.01)  # type: ignore[misc]
            faults.cut()
            eventually(lambda n=number: watch_faults(faults) == n + 2)  # type: ignore[misc]
            assert mirror.trouble is None
    assert not logs
    assert max(running.waits) <= 1.0, "not long, but not all at once"
    assert len(set(running.waits)) >= 5


def test_expiring_again_and_again_is_listed_again_in_growing_pauses(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    faults.on(error_event(410), watch=True, times=8)
    mirror = mirror_of(faulty)
    with capture_logs() as logs, Running(mirror) as running:
        eventually(lambda: watch_faults(faults) == 9, timeout=20)
        watching(mirror)
        assert names(mirror) == {"a"}
    pauses = [wait for wait in running.waits if wait > 0.2]
    assert pauses[4] >= 8.0
    assert pauses[6] >= 30.0
    assert max(pauses) <= 61.0
    assert len(lists(faults)) == 9
    assert len([log for log in logs if log["event"] == "watch.failed"]) == 1


def test_streams_that_end_at_once_are_opened_in_growing_pauses(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    faults.on(Stream(), watch=True, times=6)
    mirror = mirror_of(faulty)
    with Running(mirror) as running:
        eventually(lambda: watch_faults(faults) == 7)
        watching(mirror)
    assert max(running.waits[:6]) >= 16.0
    assert len(lists(faults)) == 1


# Trouble

TROUBLES: dict[str, Fault] = {
    "429": Refuse(429, retry_after=3),
    "500": Refuse(500),
    "503 page": Refuse(503, page="<html>no healthy upstream</html>"),
    "403": Refuse(403),
    "401": Refuse(401),
    "404": Refuse(404),
    "closed": Close(),
    "hang": Hang(),
    "not JSON": Say(b"\0\0"),
    "half JSON": Say(b'{"kind": "CachedModelList", "metadata": {"resourceVersion": "9'),
    "no list": Say(b"{}"),
    "no event": Stream((b"nonsense\n",)),
    "500 event": error_event(500),
    "429 event": error_event(429),
    "redirect": Refuse(307),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_leaves_everything_as_it_was_and_passes(
    admin: Client, faults: ApiFaults, faulty: Client, trouble: str
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    admin.create(CACHED_MODELS, model("b"))
    mirror = mirror_of(faulty.within(0.3))
    emptied: list[int] = []
    with capture_logs() as logs, Running(mirror):
        there(mirror, "a", "b")
        watching(mirror)
        mirror._on_change = lambda: emptied.append(len(mirror.objects))
        faults.on(TROUBLES[trouble], path=MODELS)
        faults.cut()
        mirror.relist()
        eventually(lambda: mirror.trouble is not None, timeout=10)
        admin.create(CACHED_MODELS, model("c"))
        eventually(lambda: len(faults.requests(path=MODELS)) >= 5, timeout=20)
        assert names(mirror) == {"a", "b"}
        faults.well()
        faults.cut()
        there(mirror, "a", "b", "c")
        eventually(lambda: mirror.trouble is None)
    assert 0 not in emptied
    told = [log["event"] for log in logs if log["event"].startswith("watch.")]
    assert told[-1] == "watch.recovered"
    assert told.count("watch.failed") <= 3, "once for each kind of it"


def test_what_the_server_wishes_is_waited_for(faults: ApiFaults, faulty: Client) -> None:
    faults.on(Refuse(429, retry_after=17), times=1)
    faults.on(Refuse(429, retry_after=3600), times=1)
    mirror = mirror_of(faulty)
    assert 17 <= mirror.cycle() <= 18
    assert 59 <= mirror.cycle() <= 61, "but not for ever"


class Simulated:
    """A clock that a Mirror's pauses move on, and nothing else."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def run(self, mirror: Mirror, seconds: float) -> int:
        """So much time; the number of rounds that it took."""
        end, rounds = self.now + seconds, 0
        while self.now < end:
            self.now += max(0.01, mirror.cycle())
            rounds += 1
        return rounds


@pytest.mark.parametrize("fault", [Refuse(500), Refuse(403), Refuse(404), Close(), Refuse(410)])
def test_an_hour_of_outage_is_a_bounded_number_of_requests_and_one_list_at_most_after_it(
    admin: Client, faults: ApiFaults, faulty: Client, fault: Fault
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    clock = Simulated()
    mirror = mirror_of(faulty, clock=clock, spread_seconds=5.0)
    with Running(mirror):
        there(mirror, "a")
        watching(mirror)
        faults.on(fault)
        faults.cut()
        eventually(lambda: mirror._stream is None)
    mirror._stopped = False
    faults.forget()
    clock.run(mirror, 3600.0)
    # An hour in pauses of thirty seconds at least, after six that grow up to there.
    asked = len(faults.requests())
    assert 60 <= asked <= 3600 / 30 + 8, asked
    assert names(mirror) == {"a"}
    faults.well()
    faults.forget()
    with Running(mirror):
        admin.create(CACHED_MODELS, model("b"))
        clock.now += 100.0
        there(mirror, "a", "b")
        watching(mirror)
    assert len(lists(faults)) <= 1
    assert len(faults.requests()) <= 3


def test_an_outage_of_the_api_server_itself(admin: Client, cluster: ControlPlane) -> None:
    """It comes back with another cache: what was the last version is too old for it."""
    for name in ("a", "b"):
        admin.create(CACHED_MODELS, model(name))
    mirror = mirror_of(admin)
    with Running(mirror, pause=0.3):
        there(mirror, "a", "b")
        cluster.stop_api_server()
        try:
            eventually(lambda: mirror.trouble is not None)
            assert names(mirror) == {"a", "b"}
        finally:
            cluster.start_api_server()
        admin.create(CACHED_MODELS, model("c"))
        there(mirror, "a", "b", "c")
        eventually(lambda: mirror.trouble is None)


def test_an_api_server_that_hangs(admin: Client, cluster: ControlPlane) -> None:
    admin.create(CACHED_MODELS, model("a"))
    mirror = Mirror(
        admin.within(0.5), CACHED_MODELS, spread_seconds=0.05, silence_seconds=0.3, watch_seconds=0
    )
    with Running(mirror):
        there(mirror, "a")
        with cluster.hanging_api_server():
            eventually(lambda: mirror.trouble is not None, timeout=20)
            assert names(mirror) == {"a"}
        admin.create(CACHED_MODELS, model("b"))
        there(mirror, "a", "b")
        assert mirror.trouble is None


def test_a_kind_that_goes_away_and_comes_back(admin: Client, cluster: ControlPlane) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.modelcache.dev"},
        "spec": {
            "group": "test.modelcache.dev",
            "scope": "Cluster",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }
            ],
        },
    }
    widgets = Resource("test.modelcache.dev", "v1", "widgets")

    def widget(name: str) -> None:
        thing = {"apiVersion": "test.modelcache.dev/v1", "kind": "Widget"}
        eventually(lambda: admin.create(widgets, {**thing, "metadata": {"name": name}}))

    mirror = mirror_of(admin, widgets)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with Running(mirror, pause=0.1):
        # A kind that isn't there yet: told, and waited for.
        eventually(lambda: mirror.trouble is not None)
        assert mirror.listed_at is None
        try:
            cluster.api(path, "POST", definition)
            widget("a")
            there(mirror, "a")
        finally:
            cluster.api(f"{path}/widgets.test.modelcache.dev", "DELETE")
        # The server deletes the objects one by one, and says so.
        eventually(lambda: mirror.trouble is not None and mirror.trouble.status == 404)
        try:
            eventually(lambda: cluster.api(path, "POST", definition))
            widget("b")
            there(mirror, "b")
        finally:
            cluster.api(f"{path}/widgets.test.modelcache.dev", "DELETE")


# Time does not go back


def test_a_list_that_is_empty_is_believed_but_nobody_said_deleted(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    """What to make of it is for `cluster.desired`: it looks at `deleted`."""
    admin.create(CACHED_MODELS, model("a"))
    mirror = mirror_of(faulty)
    with Running(mirror):
        there(mirror, "a")
        faults.on(EmptyList(), watch=False)
        mirror.relist()
        there(mirror)
        assert not mirror.deleted
        faults.well()
        mirror.relist()
        there(mirror, "a")


def test_what_is_asked_for_anew_comes_from_the_database(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    mirror = mirror_of(faulty)
    with Running(mirror):
        watching(mirror)
        before = mirror.listed_at
        mirror.relist()
        eventually(lambda: mirror.listed_at != before)
        watching(mirror)
    first, second = lists(faults)
    assert first["resourceVersion"] == "0"
    assert "resourceVersion" not in second


def test_a_list_older_than_what_is_known_is_not_taken_in(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    old = {"metadata": {"resourceVersion": "2"}, "items": []}
    mirror = mirror_of(faulty, resync_seconds=0.3)
    changes: list[set[str]] = []
    with Running(mirror):
        there(mirror, "a")
        mirror._on_change = lambda: changes.append(names(mirror))
        faults.on(
            Say(json.dumps(old).encode()),
            watch=False,
            times=2,
            when=lambda request: "resourceVersion" in request.query,
        )
        listed = len(lists(faults))
        eventually(lambda: len(lists(faults)) >= listed + 4)
    assert set() not in changes
    assert "resourceVersion" not in lists(faults)[listed + 1], "read from the database instead"


def test_an_event_older_than_what_is_known_is_not_taken_in(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    admin.create(CACHED_MODELS, model("a"))
    old = {"type": "DELETED", "object": {"metadata": {"name": "a", "resourceVersion": "2"}}}
    faults.on(Stream((json.dumps(old).encode() + b"\n",), hangs=True), watch=True, times=1)
    mirror = mirror_of(faulty)
    changes: list[set[str]] = []
    mirror._on_change = lambda: changes.append(names(mirror))
    with Running(mirror):
        eventually(lambda: watch_faults(faults) == 2)
        watching(mirror)
        assert names(mirror) == {"a"}
    assert changes == [{"a"}]
    assert len(lists(faults)) == 2


def test_a_database_from_before_is_the_truth_in_the_end(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    """Restored from a backup: the server knows no version as high as ours, and a watch from there
    would be silent for ever."""
    admin.create(CACHED_MODELS, model("a"))
    speed = 20.0
    mirror = mirror_of(
        faulty.within(5.0), silence_seconds=0.7, clock=lambda: time.monotonic() * speed
    )
    with Running(mirror) as running:
        there(mirror, "a")
        watching(mirror)
        with faults.away():
            eventually(lambda: mirror.trouble is not None)
            mirror._version = "900000000000"
            admin.delete(CACHED_MODELS, "a")
            admin.create(CACHED_MODELS, model("b"))
        running.waits.clear()
        there(mirror, "b")
    asked = lists(faults)
    assert asked[1]["resourceVersion"] == "900000000000", "first: is there anything newer?"
    assert "resourceVersion" not in asked[2]
    assert len(asked) == 3


# Quiet kinds, resyncs


def test_a_quiet_kind_is_no_trouble_and_is_asked_less_and_less(
    faults: ApiFaults, faulty: Client
) -> None:
    speed = 50.0
    mirror = mirror_of(
        faulty, silence_seconds=0.25, watch_seconds=300.0, clock=lambda: time.monotonic() * speed
    )
    with capture_logs() as logs, Running(mirror):
        eventually(lambda: watch_faults(faults) == 4)
        watching(mirror)
        patience = mirror._patience
    assert patience == 2.0
    at = [each.at for each in faults.requests(watch=True)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert gaps[2] > gaps[0] * 2
    assert mirror.trouble is None
    assert not [log for log in logs if log["log_level"] != "debug"]
    assert len(lists(faults)) == 1


def test_everything_is_listed_now_and_then(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    """For what a stream missed: here an event that a proxy swallowed."""
    faults.on(Stream(hangs=True), watch=True, times=1)
    mirror = mirror_of(faulty, resync_seconds=2.0, silence_seconds=0.5)
    with Running(mirror):
        eventually(lambda: watch_faults(faults) == 1)
        admin.create(CACHED_MODELS, model("a"))
        there(mirror, "a")
        eventually(lambda: len(lists(faults)) >= 3, timeout=15)
    assert all(each["resourceVersionMatch"] == "NotOlderThan" for each in lists(faults))


def test_the_server_is_told_how_long_a_stream_is_to_last(faults: ApiFaults, faulty: Client) -> None:
    mirror = mirror_of(faulty, watch_seconds=300.0, resync_seconds=100.0)
    with Running(mirror):
        watching(mirror)
    (asked,) = faults.requests(watch=True)
    assert 75 <= int(asked.query["timeoutSeconds"]) <= 120, "up to the next list"
    assert asked.query["allowWatchBookmarks"] == "true"


# Its end


@pytest.mark.parametrize("when", ["before", "listing", "watching"])
def test_it_ends_when_it_is_told_to(
    admin: Client, faults: ApiFaults, faulty: Client, when: str
) -> None:
    mirror = mirror_of(faulty.within(1.0))
    if when == "listing":
        faults.on(Hang(), watch=False)
    if when == "before":
        mirror.stop()
        assert mirror.cycle() > 1
        assert not faults.requests()
        return
    thread = threading.Thread(target=mirror.cycle, daemon=True)
    thread.start()
    eventually(lambda: faults.requests(), pause=0.01)
    if when == "watching":
        watching(mirror)
    mirror.stop()
    thread.join(2)
    assert not thread.is_alive()
    asked = len(faults.requests())
    assert mirror.cycle() > 1
    assert len(faults.requests()) == asked


def test_a_listener_that_fails_loses_nothing(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    """The task logs it, and goes on."""

    def fail() -> None:
        raise RuntimeError("a listener's own mistake")

    admin.create(CACHED_MODELS, model("a"))
    mirror = mirror_of(faulty, on_change=fail)
    with pytest.raises(RuntimeError):
        mirror.cycle()
    there(mirror, "a")

    def make() -> None:
        watching(mirror)
        admin.create(CACHED_MODELS, model("b"))

    maker = threading.Thread(target=make)
    maker.start()
    with pytest.raises(RuntimeError):
        mirror.cycle()
    maker.join()
    there(mirror, "a", "b")
    mirror._on_change = lambda: None
    with Running(mirror):
        admin.create(CACHED_MODELS, model("c"))
        there(mirror, "a", "b", "c")
    assert len(lists(faults)) == 1


# All of it at once


class Chaos:
    """Random faults, while objects change."""

    def __init__(self, seed: int, admin: Client, faults: ApiFaults, mirror: Mirror) -> None:
        self.random = random.Random(seed)
        self.admin, self.faults, self.mirror = admin, faults, mirror
        self.made: set[str] = set()
        self.steps: list[Callable[[], object]] = [
            *[self.create, self.change, self.delete] * 4,
            *[self.fault] * 3,
            self.faults.well,
            self.faults.cut,
            self.mirror.relist,
            self.away,
        ]

    def step(self) -> None:
        self.random.choice(self.steps)()

    def create(self) -> None:
        name = f"m-{self.random.randrange(10**9)}"
        self.admin.create(CACHED_MODELS, model(name))
        self.made.add(name)

    def change(self) -> None:
        if self.made:
            name = self.random.choice(sorted(self.made))
            patch = {"spec": {"priority": self.random.randrange(1000)}}
            self.admin.patch(CACHED_MODELS, name, patch)

    def delete(self) -> None:
        if self.made:
            name = self.random.choice(sorted(self.made))
            self.admin.delete(CACHED_MODELS, name)
            self.made.remove(name)

    def fault(self) -> None:
        fault = self.random.choice([*TROUBLES.values(), error_event(410), Refuse(410), CutAfter(1)])
        watch = self.random.choice([True, False, None])
        self.faults.on(fault, watch=watch, times=self.random.randint(1, 4))
        if self.random.random() < 0.5:
            self.faults.cut()

    def away(self) -> None:
        with self.faults.away():
            self.create()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_it_is_never_emptied_and_comes_to_what_is_there(
    admin: Client, faults: ApiFaults, faulty: Client, seed: int
) -> None:
    always = {"always-1", "always-2"}
    for name in always:
        admin.create(CACHED_MODELS, model(name))
    missing: list[set[str]] = []

    def look() -> None:
        if not always <= names(mirror):
            missing.append(names(mirror))

    mirror = mirror_of(faulty.within(0.2), on_change=look, resync_seconds=2.0, silence_seconds=1.0)
    chaos = Chaos(seed, admin, faults, mirror)
    with capture_logs(), Running(mirror, pause=0.002) as running:
        eventually(lambda: always <= names(mirror))
        for _ in range(200):
            chaos.step()
            assert always <= names(mirror)
        faults.well()
        faults.cut()
        wanted = {thing["metadata"]["name"]: thing for thing in admin.list(CACHED_MODELS).items}
        eventually(lambda: dict(mirror.objects) == wanted, timeout=20)
        assert mirror.trouble is None
    assert not missing
    assert len(running.waits) > 30, "there was something to get over"
