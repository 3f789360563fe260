"""Elections on the real API server, also where its answers fail to come, with clocks of our own."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from modelcache.cluster.client import LEASES, Client
from modelcache.cluster.election import Election
from modelcache.cluster.leases import Leases
from tests.support.apifaults import ApiFaults, Hang, Refuse, Swallow
from tests.support.cluster.plane import ControlPlane

SPACE = "modelcache-system"
PATH = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/it"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(admin: Client, clock: Clock) -> Callable[..., Election]:
    """By its name; with a client of its own, if one is given."""

    def make(name: str, client: Client = admin) -> Election:
        return Election(Leases(client, SPACE, name, clock), "it", clock=clock)

    return make


def holder(admin: Client) -> str:
    return str(admin.get(LEASES, "it", SPACE)["spec"]["holderIdentity"])


def test_one_of_several_leads_and_asks_every_two_seconds(
    replica: Callable[..., Election], clock: Clock
) -> None:
    replicas = [replica(f"r{n}") for n in range(3)]
    assert not any(each.leading for each in replicas)
    for _ in range(15):
        pauses = [each.cycle() for each in replicas]
        assert all(1.6 <= pause <= 2.4 for pause in pauses)
        assert [each.leading for each in replicas] == [True, False, False]
        clock.tick(2)


def test_one_leads_and_another_takes_over(replica: Callable[..., Election], clock: Clock) -> None:
    a, b = replica("a"), replica("b")
    a.cycle()
    b.cycle()
    assert (a.leading, b.leading) == (True, False)
    # a is gone, or hangs.
    for _ in range(7):
        clock.tick(2)
        b.cycle()
    assert (a.leading, b.leading) == (False, False), "it knows itself, before b may"
    clock.tick(2)
    b.cycle()
    assert (a.leading, b.leading) == (False, True)
    a.cycle()
    assert not a.leading


def test_who_ends_lets_another_lead_at_once(replica: Callable[..., Election]) -> None:
    a, b = replica("a"), replica("b")
    a.cycle()
    b.cycle()
    a.release()
    assert not a.leading
    b.cycle()
    assert b.leading
    a.release()
    assert b.leading


def test_who_cannot_renew_leads_no_more(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election], clock: Clock
) -> None:
    leader = replica("a", faulty)
    leader.cycle()
    for fault in (Refuse(500), Refuse(403), Refuse(429, retry_after=1000)):
        faults.well()
        faults.on(fault)
        clock.tick(9)
        assert leader.cycle() <= 15
        assert leader.leading, "not at the first try that fails"
        clock.tick(1)
        assert not leader.leading
        faults.well()
        leader.cycle()
        assert leader.leading
    with faults.away():
        leader.cycle()
        leader.release()
    assert not leader.leading


def test_without_an_answer_it_leads_no_more_well_before_another_does(
    admin: Client, faulty: Client, faults: ApiFaults, replica: Callable[..., Election], clock: Clock
) -> None:
    first, second = replica("first", faulty), replica("second")
    first.cycle()
    second.cycle()
    faults.on(Refuse(500))
    with capture_logs() as logs:
        for seconds in range(1, 15):
            clock.tick(1)
            assert 1.6 <= first.cycle() <= 2.4, "it goes on asking in time"
            second.cycle()
            assert first.leading == (seconds < 10)
            assert not second.leading
        clock.tick(1)
        second.cycle()
        assert second.leading
        faults.well()
        first.cycle()
    assert not first.leading
    assert [log["event"] for log in logs] == ["election.failed", "election.recovered"]


def test_a_server_that_is_back_in_time_leaves_the_leader(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election], clock: Clock
) -> None:
    first, second = replica("first", faulty), replica("second")
    first.cycle()
    second.cycle()
    faults.on(Refuse(503))
    clock.tick(12)
    first.cycle()
    assert not first.leading
    faults.well()
    clock.tick(1)
    first.cycle()
    second.cycle()
    assert (first.leading, second.leading) == (True, False)


def test_the_wish_of_the_server_is_respected_but_not_for_ever(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election]
) -> None:
    first = replica("first", faulty)
    for wish, pause in (7, 7), (3600, 15):
        faults.well()
        faults.on(Refuse(429, retry_after=wish))
        assert first.cycle() == pause


def test_a_hanging_server_costs_a_try_only_seconds(
    admin: Client, faults: ApiFaults, faulty: Client
) -> None:
    assert Leases(admin, SPACE, "a")._client._answer_seconds <= 5.0
    faults.on(Hang())
    leases = Leases(faulty, SPACE, "a")
    leases._client = faulty.within(0.2)
    one = Election(leases, "it")
    assert one.cycle() < 3
    assert not one.leading


def test_a_release_that_fails_is_told_and_no_more(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election]
) -> None:
    first = replica("first", faulty)
    first.cycle()
    faults.on(Refuse(500))
    with capture_logs() as logs:
        first.release()
    assert not first.leading
    assert [log["event"] for log in logs] == ["election.failed"]


def test_who_was_elected_without_knowing_leads_when_it_asks_again(
    admin: Client, faulty: Client, faults: ApiFaults, replica: Callable[..., Election], clock: Clock
) -> None:
    first = replica("first", faulty)
    faults.on(Swallow(), times=1, method="POST")
    first.cycle()
    assert not first.leading
    assert holder(admin) == "first"
    clock.tick(2)
    first.cycle()
    assert first.leading


def test_who_was_elected_without_knowing_lets_go_too(
    cluster: ControlPlane, faulty: Client, faults: ApiFaults, replica: Callable[..., Election]
) -> None:
    first = replica("first", faulty)
    faults.on(Swallow(), times=1, method="POST")
    first.cycle()
    assert cluster.find(PATH) is not None
    first.release()
    assert cluster.find(PATH) is None


def test_a_lease_that_somebody_deleted_is_made_anew(
    cluster: ControlPlane, admin: Client, replica: Callable[..., Election]
) -> None:
    first = replica("first")
    first.cycle()
    cluster.api(PATH, "DELETE")
    first.cycle()
    assert first.leading
    assert holder(admin) == "first"


def test_a_lease_that_was_made_between_look_and_creation_is_another_s(
    admin: Client, faulty: Client, faults: ApiFaults, replica: Callable[..., Election]
) -> None:
    first, second = replica("first"), replica("second", faulty)
    first.cycle()
    faults.on(Refuse(404), times=1, method="GET")
    second.cycle()
    assert len(faults.requests(method="POST")) == 1
    assert not second.leading
    assert holder(admin) == "first"


def test_who_surely_has_nothing_asks_nothing_when_it_ends(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election]
) -> None:
    first, second = replica("first"), replica("second", faulty)
    first.cycle()
    second.cycle()
    faults.forget()
    second.release()
    assert not faults.requests()


@pytest.mark.parametrize("seed", range(2))
def test_never_do_two_lead(
    faulty: Client, faults: ApiFaults, replica: Callable[..., Election], clock: Clock, seed: int
) -> None:
    """Replicas that are paused, cut off and told to end, in any order."""
    dice = random.Random(seed)
    replicas = [replica("a"), replica("b", faulty), replica("c", faulty)]
    led: set[int] = set()
    for _ in range(200):
        clock.tick(dice.choice([0.1, 0.5, 1.0, 2.0, 6.0]))
        one = dice.choice(replicas)
        what = dice.random()
        if what < 0.05:
            one.release()
        elif what < 0.15:
            faults.on(dice.choice([Refuse(500), Swallow()]), times=2)
        else:
            one.cycle()
        leading = [number for number, each in enumerate(replicas) if each.leading]
        assert len(leading) <= 1
        led.update(leading)
    assert len(led) > 1, "it has changed hands"
