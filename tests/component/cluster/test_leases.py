"""Leases on the real API server, with clocks of our own."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from modelcache.cluster.client import LEASES, Client
from modelcache.cluster.leases import Leases
from modelcache.errors import ClusterError
from tests.support.apifaults import ApiFaults, Refuse, Swallow

SPACE = "modelcache-system"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spec(admin: Client, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = admin.get(LEASES, name, SPACE)["spec"]
    return found


def test_who_comes_first_has_it(admin: Client, clock: Clock) -> None:
    a, b = (Leases(admin, SPACE, who, clock) for who in "ab")
    assert a.acquire("one", 40, {"test": "yes"})
    assert not b.acquire("one", 40)
    assert a.acquire("one", 40)
    found = spec(admin)
    assert found["holderIdentity"] == "a"
    assert found["leaseDurationSeconds"] == 40
    for moment in (found["acquireTime"], found["renewTime"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    assert set(a.list("test=yes")) == {"one"}
    assert a.until("one") == 1040.0
    assert b.until("one") == float("-inf")


def test_a_renewal_is_one_request(faults: ApiFaults, faulty: Client, clock: Clock) -> None:
    leases = Leases(faulty, SPACE, "a", clock)
    leases.acquire("one", 40)
    faults.forget()
    clock.now += 10
    assert leases.acquire("one", 40)
    assert leases.renew("one", 40)
    assert [request.method for request in faults.requests()] == ["PUT", "PUT"]
    assert leases.until("one") == 1050.0


def test_it_is_taken_over_when_nobody_was_seen_renewing_it(admin: Client, clock: Clock) -> None:
    a, b = (Leases(admin, SPACE, who, clock) for who in "ab")
    a.acquire("one", 40)
    assert not b.acquire("one", 40)
    clock.now += 39
    assert not b.acquire("one", 40)
    a.acquire("one", 40)
    clock.now += 39
    assert not b.acquire("one", 40), "seen renewed"
    clock.now += 39
    assert not b.acquire("one", 40), "39 seconds since it was seen"
    clock.now += 1
    assert b.acquire("one", 40)
    assert spec(admin)["leaseTransitions"] == 1
    assert not a.renew("one", 40)
    assert a.until("one") == float("-inf")
    assert not a.acquire("one", 40)


@pytest.mark.parametrize("year", ["1999", "2099"])
def test_the_times_in_it_are_not_believed(admin: Client, clock: Clock, year: str) -> None:
    """Nodes' clocks differ."""
    a, b = (Leases(admin, SPACE, who, clock) for who in "ab")
    a.acquire("one", 40)
    change = {"spec": {"renewTime": f"{year}-01-01T00:00:00.000000Z"}}
    admin.patch(LEASES, "one", change, namespace=SPACE)
    assert not b.acquire("one", 40)
    clock.now += 40
    assert b.acquire("one", 40)


def test_of_many_who_take_it_at_once_one_has_it(admin: Client, clock: Clock) -> None:
    everybody = [Leases(admin, SPACE, f"holder-{n}", clock) for n in range(8)]

    def all_at_once() -> list[bool]:
        barrier, took = threading.Barrier(len(everybody)), [False] * len(everybody)

        def take(number: int) -> None:
            barrier.wait()
            took[number] = everybody[number].acquire("one", 40)

        threads = [threading.Thread(target=take, args=(n,)) for n in range(len(everybody))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    assert all_at_once().count(True) == 1, "created once"
    for leases in everybody:
        leases.acquire("one", 40)
    clock.now += 100
    assert all_at_once().count(True) == 1, "taken over once"


def test_who_was_paused_releases_nothing_of_another(admin: Client, clock: Clock) -> None:
    a, b = (Leases(admin, SPACE, who, clock) for who in "ab")
    a.acquire("one", 40)
    b.acquire("one", 40)
    clock.now += 41
    assert b.acquire("one", 40)
    a.release("one")
    assert spec(admin)["holderIdentity"] == "b"
    b.release("one")
    with pytest.raises(ClusterError) as gone:
        spec(admin)
    assert gone.value.status == 404
    b.release("one")  # again does no harm
    assert a.acquire("one", 40)


def test_a_release_between_look_and_deletion_spares_who_took_it(
    admin: Client, faults: ApiFaults, faulty: Client, clock: Clock
) -> None:
    """The one moment that only the server can judge."""
    a, b = Leases(faulty, SPACE, "a", clock), Leases(admin, SPACE, "b", clock)
    a.acquire("one", 40)
    a._mine.clear()  # as after a restart: it has to look
    b.acquire("one", 40)
    clock.now += 41
    took: list[bool] = []

    def take_over(request: Any) -> bool:
        if request.method == "DELETE" and not took:
            took.append(b.acquire("one", 40))
        return False

    faults.on(Refuse(500), when=take_over)
    a.release("one")
    assert took == [True]
    assert spec(admin)["holderIdentity"] == "b"


def test_an_answer_that_never_came_is_made_up_for(
    admin: Client, faults: ApiFaults, faulty: Client, clock: Clock
) -> None:
    leases = Leases(faulty, SPACE, "a", clock)
    other = Leases(admin, SPACE, "b", clock)
    faults.on(Swallow(), method="POST", times=1)
    with pytest.raises(ClusterError):
        leases.acquire("one", 40)
    assert leases.until("one") == float("-inf")
    assert leases.acquire("one", 40), "it was ours all along"
    faults.on(Swallow(), method="PUT", times=1)
    with pytest.raises(ClusterError):
        leases.acquire("one", 40)
    assert leases.acquire("one", 40)
    assert not other.acquire("one", 40)
    faults.on(Swallow(), method="PUT", times=1)
    with pytest.raises(ClusterError):
        leases.acquire("one", 40)
    leases.release("one")
    assert other.acquire("one", 40)


def test_somebody_else_writes_into_it(admin: Client, clock: Clock) -> None:
    leases = Leases(admin, SPACE, "a", clock)
    leases.acquire("one", 40)
    admin.patch(LEASES, "one", {"metadata": {"annotations": {"x": "y"}}}, namespace=SPACE)
    assert not leases.renew("one", 40)
    leases.acquire("one", 40)
    admin.patch(LEASES, "one", {"metadata": {"annotations": {"x": "z"}}}, namespace=SPACE)
    assert leases.acquire("one", 40)
    assert admin.get(LEASES, "one", SPACE)["metadata"]["annotations"] == {"x": "z"}
    admin.delete(LEASES, "one", SPACE)
    assert leases.acquire("one", 40), "made anew"


def test_an_empty_lease_is_free(admin: Client, clock: Clock) -> None:
    bare = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}}
    admin.create(LEASES, bare, SPACE)
    assert Leases(admin, SPACE, "a", clock).acquire("one", 40)


def test_what_nobody_looks_at_is_forgotten(admin: Client, clock: Clock) -> None:
    a, b = (Leases(admin, SPACE, who, clock) for who in "ab")
    for number in range(5):
        a.acquire(f"old-{number}", 40)
        b.acquire(f"old-{number}", 40)
    assert len(b._seen) == 5
    clock.now += 1000
    a.acquire("new", 40)
    b.acquire("new", 40)
    assert set(b._seen) == {"new"}
