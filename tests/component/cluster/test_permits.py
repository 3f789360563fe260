"""Permits of many nodes on the real API server, with a clock of our own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.client import LEASES, Client
from modelcache.cluster.leases import Leases
from modelcache.cluster.permits import PERMIT_LABEL, Permits, permit_label
from modelcache.errors import ClusterError
from tests.support.apifaults import ApiFaults, Close, Fault, Refuse, Swallow
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

SPACE = "modelcache-system"
KEY = "hf://org/repo/0123456789abcdef"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """One node's permits, and what becomes of them: its rounds are made when they are due."""

    def __init__(
        self, client: Client, name: str, clock: Clock, slots: int, patience: float = 60.0
    ) -> None:
        self.name = name
        self.changes = 0
        self.permits = Permits(
            Leases(client, SPACE, name, clock),
            slots=slots,
            on_change=self._changed,
            clock=clock,
            patience=patience,
        )
        self.clock = clock
        self.due = 0.0

    def _changed(self) -> None:
        self.changes += 1

    def want(self, *keys: str, **priorities: int) -> None:
        self.permits.want({**dict.fromkeys(keys, 0), **priorities})
        self.due = self.clock.now

    def run(self) -> None:
        """A round, if it is due."""
        if self.clock.now >= self.due:
            self.due = self.clock.now + self.permits.cycle()

    def has(self, key: str = KEY) -> bool:
        return key in self.permits.held()


class Counting(Client):
    """Counts its requests."""

    asked: list[str]

    def _request(self, method: str, *rest: Any, **more: Any) -> Any:
        self.asked.append(method)
        return super()._request(method, *rest, **more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counting(cluster: ControlPlane) -> Iterator[Counting]:
    client = Counting.connect(cluster.kubeconfig)
    client.asked = []
    yield client
    client.close()


def slots_of(admin: Client, key: str = KEY) -> dict[str, str]:
    """The holders, by Lease."""
    found = admin.list(LEASES, SPACE, labels=f"{PERMIT_LABEL}={permit_label(key)}")
    return {lease["metadata"]["name"]: lease["spec"]["holderIdentity"] for lease in found.items}


def await_cache(admin: Client) -> None:
    """Until who lists from the API server's cache sees what is there: it is behind for moments."""
    there = slots_of(admin)

    def cached() -> bool:
        found = admin.list(LEASES, SPACE, labels=PERMIT_LABEL, not_older_than="0")
        return {lease["metadata"]["name"] for lease in found.items} >= there.keys()

    eventually(cached, what="the API server's cache", pause=0.01)


def pass_time(clock: Clock, nodes: list[Node], seconds: float, step: float = 1.0) -> None:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        for node in nodes:
            node.run()


def test_so_many_have_one_and_the_next_when_one_is_given_back(admin: Client, clock: Clock) -> None:
    nodes = [Node(admin, f"node-{n}", clock, slots=2) for n in range(5)]
    for node in nodes:
        node.want(KEY)
        node.run()
        await_cache(admin)
    first = [node for node in nodes if node.has()]
    assert first == nodes[:2]
    assert first[0].changes == 1
    assert sorted(slots_of(admin)) == [f"modelcache-permit-{permit_label(KEY)}-{n}" for n in (0, 1)]
    pass_time(clock, nodes, 120)
    assert [node for node in nodes if node.has()] == first, "they are renewed"
    first[0].want()
    assert not first[0].has(), "at once"
    pass_time(clock, nodes, 62)
    holders = [node for node in nodes if node.has()]
    assert len(holders) == 2
    assert first[0] not in holders
    done: set[str] = {first[0].name}
    for _ in range(10):
        for node in nodes:
            if node.has():
                done.add(node.name)
                node.want()
        pass_time(clock, nodes, 62)
    assert done == {node.name for node in nodes}, "everybody's turn comes"
    assert slots_of(admin) == {}


def test_keys_do_not_meet_and_the_urgent_comes_first(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    node = Node(faulty, "node", clock, slots=1)
    node.want(low=1, high=100, middle=50)
    node.run()
    assert node.permits.held() == {"low", "high", "middle"}
    made = [request.method for request in faults.requests(watch=False, path="leases$")]
    assert made == ["GET", "POST", "POST", "POST"], "one question for all"
    leases = admin.list(LEASES, SPACE, labels=PERMIT_LABEL).items
    by_age = sorted(leases, key=lambda lease: int(lease["metadata"]["resourceVersion"]))
    assert [lease["metadata"]["labels"][PERMIT_LABEL] for lease in by_age] == [
        permit_label(key) for key in ("high", "middle", "low")
    ]
    assert slots_of(admin, "high") == {f"modelcache-permit-{permit_label('high')}-0": "node"}


def test_no_more_are_taken_than_are_of_use(counting: Counting, clock: Clock) -> None:
    node = Node(counting, "node", clock, slots=1)
    keys = dict.fromkeys("abcdef", 0)
    node.permits.want(keys, 2)
    node.run()
    first = node.permits.held()
    assert len(first) == 2
    # There is room again only when one is done.
    counting.asked.clear()
    pass_time(clock, [node], 30)
    assert node.permits.held() == first
    assert not {"GET", "POST"} & set(counting.asked)
    done = next(iter(first))
    node.permits.want({key: 0 for key in keys if key != done}, 2)
    node.due = clock.now
    node.run()
    assert len(node.permits.held()) == 2
    assert node.permits.held() & first == first - {done}


def test_nodes_that_want_the_same_don_t_all_wait_for_the_same(admin: Client, clock: Clock) -> None:
    nodes = [Node(admin, f"node-{number}", clock, slots=1) for number in range(4)]
    for node in nodes:
        node.permits.want(dict.fromkeys("abcd", 0), 1)
    pass_time(clock, nodes, 10)
    assert sorted("".join(node.permits.held()) for node in nodes) == ["a", "b", "c", "d"]


def test_who_waits_keeps_its_place_from_lower_priorities(admin: Client, clock: Clock) -> None:
    other, node = (Node(admin, name, clock, slots=1) for name in ("other", "node"))
    other.want("urgent")
    other.run()
    node.permits.want({"urgent": 1, "low": 0, "lower": 0}, 2)
    node.due = clock.now
    node.run()
    assert len(node.permits.held()) == 1
    other.want()
    other.run()
    pass_time(clock, [node], 10)
    assert "urgent" in node.permits.held()
    assert len(node.permits.held()) == 2


def test_its_place_is_kept_also_while_nobody_looks_for_it(admin: Client, clock: Clock) -> None:
    other, node = (Node(admin, name, clock, slots=1) for name in ("other", "node"))
    other.want("urgent")
    other.run()
    node.permits.want({"urgent": 1}, 2)
    node.due = clock.now
    node.run()
    # Within its pause others come to be wanted.
    node.permits.want({"urgent": 1, "low": 0, "lower": 0}, 2)
    node.due = clock.now
    node.run()
    assert len(node.permits.held()) == 1
    other.want()
    other.run()
    pass_time(clock, [node], 10)
    assert "urgent" in node.permits.held()


def test_who_dies_blocks_nobody_for_long(admin: Client, clock: Clock) -> None:
    dead, alive = (Node(admin, name, clock, slots=1) for name in ("dead", "alive"))
    dead.want(KEY)
    dead.run()
    alive.want(KEY)
    pass_time(clock, [alive], 30)
    assert not alive.has()
    pass_time(clock, [alive], 75)
    assert alive.has()


def test_who_was_paused_knows_that_its_permit_lapsed(admin: Client, clock: Clock) -> None:
    paused, other = (Node(admin, name, clock, slots=1) for name in ("paused", "other"))
    paused.want(KEY)
    paused.run()
    other.want(KEY)
    pass_time(clock, [other], 120)
    assert other.has()
    assert not paused.has(), "before it has asked anybody"
    paused.run()
    assert not paused.has()
    assert paused.changes == 2
    assert slots_of(admin)[f"modelcache-permit-{permit_label(KEY)}-0"] == "other"
    other.want()
    pass_time(clock, [paused, other], 62)
    assert paused.has()


def test_who_finds_its_permit_in_other_hands_holds_it_no_more(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    """Somebody deleted the Lease, and the next in line was quicker."""
    node, other = Node(faulty, "node", clock, slots=1), Node(admin, "other", clock, slots=1)
    node.want(KEY)
    node.run()
    admin.delete(LEASES, f"modelcache-permit-{permit_label(KEY)}-0", SPACE)
    other.want(KEY)
    other.run()
    assert other.has()
    faults.on(Refuse(500), when=lambda request: "labelSelector" in request.query)
    clock.now += 15
    node.run()
    assert not node.has()


def test_not_all_reach_for_the_same(admin: Client, clock: Clock) -> None:
    keys = [f"key-{number}" for number in range(12)]
    node = Node(admin, "node", clock, slots=4)
    node.want(*keys)
    node.run()
    slots = {lease[-1] for key in keys for lease in slots_of(admin, key)}
    assert len(slots) > 1


def test_a_restarted_node_has_its_own_permit_at_once(admin: Client, clock: Clock) -> None:
    before = Node(admin, "node", clock, slots=2)
    before.want(KEY)
    before.run()
    after = Node(admin, "node", clock, slots=2)
    after.want(KEY)
    after.run()
    assert after.has()
    assert list(slots_of(admin).values()) == ["node"], "and only one"


def test_what_is_not_wanted_any_more_goes_back_also_at_the_end(admin: Client, clock: Clock) -> None:
    node = Node(admin, "node", clock, slots=2)
    node.want(KEY, "other")
    node.run()
    node.want("other")
    node.run()
    assert slots_of(admin) == {}
    assert node.permits.held() == {"other"}
    node.permits.close()
    assert slots_of(admin, "other") == {}
    assert node.permits.held() == frozenset()


def test_what_goes_unwanted_while_it_is_asked_for_goes_back(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    node = Node(faulty, "node", clock, slots=1)
    node.want(KEY)

    def change_mind(request: Any) -> bool:
        if request.method == "POST":
            node.permits.want({})
        return False

    faults.on(Fault(), when=change_mind)
    node.run()
    assert not node.has()
    assert len(slots_of(admin)) == 1
    clock.now += 1
    node.run()
    assert slots_of(admin) == {}


def test_what_is_wanted_again_before_it_was_given_back(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    node = Node(faulty, "node", clock, slots=1)
    node.want(KEY)
    node.run()
    faults.on(Refuse(500), method="DELETE", times=1)
    node.want()
    node.run()
    node.want(KEY)
    assert not node.has()
    pass_time(clock, [node], 5)
    assert node.has()
    pass_time(clock, [node], 60)
    assert node.has()
    assert list(slots_of(admin).values()) == ["node"]


@pytest.mark.parametrize("fault", [Refuse(500), Refuse(403), Refuse(429), Close()])
def test_nobody_waits_for_a_server_that_cannot_be_asked(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client, fault: Fault
) -> None:
    other = Node(admin, "other", clock, slots=1)
    other.want(KEY)
    other.run()
    node = Node(faulty, "node", clock, slots=1)
    node.want(KEY)
    node.run()
    faults.on(fault)
    waited = 0.0
    while not node.has():
        pass_time(clock, [node, other], 1)
        waited += 1
        assert waited < 160
    assert waited >= 60
    assert node.changes == 1, "told"
    node.want(KEY, "another")
    node.run()
    assert node.has("another")
    asked = len(faults.requests())
    pass_time(clock, [node, other], 600)
    assert len(faults.requests()) - asked <= 45, "in growing pauses"
    faults.well()
    pass_time(clock, [node, other], 62)
    assert not node.has(), "the other has it"
    assert node.has("another")


def test_a_short_outage_costs_nobody_a_permit(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    """Also if others look again at once when it is over."""
    holder, other = (Node(faulty, name, clock, slots=1) for name in ("holder", "other"))
    holder.want(KEY)
    holder.run()
    other.want(KEY)
    for _ in range(12):
        pass_time(clock, [holder, other], 15)
        faults.on(Refuse(503))
        pass_time(clock, [holder, other], 20)
        faults.well()
        pass_time(clock, [holder, other], 7)
        assert holder.has()
        assert not other.has()
    assert holder.changes == 1


def test_who_holds_is_back_soon_also_after_a_long_outage(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    """Those who look would find its permit expired, and come back later."""
    holder = Node(faulty, "holder", clock, slots=1, patience=1e9)
    holder.want(KEY)
    holder.run()
    for _ in range(4):
        faults.on(Refuse(503))
        pass_time(clock, [holder], 120)
        assert not holder.has(), "it has lapsed"
        faults.well()
        pass_time(clock, [holder], 6)
        assert holder.has()
    # It comes no sooner than the server wishes.
    faults.on(Refuse(429, retry_after=25))
    pass_time(clock, [holder], 13)
    faults.forget()
    pass_time(clock, [holder], 12)
    assert not faults.requests()


def test_an_answer_that_never_came(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client
) -> None:
    node = Node(faulty, "node", clock, slots=3)
    faults.on(Swallow(), method="POST", times=1)
    node.want(KEY)
    pass_time(clock, [node], 10)
    assert node.has()
    assert list(slots_of(admin).values()) == ["node"], "not two"


@pytest.mark.parametrize("seed", range(2))
def test_never_do_more_than_so_many_hold_one(
    admin: Client, clock: Clock, faults: ApiFaults, faulty: Client, seed: int
) -> None:
    """Nodes that are paused, restarted, cut off for a moment, and change their minds."""
    dice = random.Random(seed)
    clients = [admin, faulty]

    def node(number: int) -> Node:
        # Without the way out: here it is counted.
        return Node(clients[number % 2], f"node-{number}", clock, slots=2, patience=1e9)

    nodes = [node(number) for number in range(6)]
    paused: dict[int, float] = {}
    had: set[str] = set()
    for _ in range(200):
        clock.now += dice.choice([0.5, 1.0, 5.0, 15.0])
        number, what = dice.randrange(len(nodes)), dice.random()
        if what < 0.05:
            paused[number] = clock.now + dice.uniform(10, 120)
        elif what < 0.08:
            # Restarted: what it holds, nobody knows but the server.
            nodes[number] = node(number)
        elif what < 0.15:
            faults.on(dice.choice([Refuse(500), Swallow(), Close()]), times=dice.randint(1, 3))
        elif what < 0.30:
            nodes[number].want()
        for each, one in enumerate(nodes):
            if not one.permits._wants and dice.random() < 0.3:
                one.want(KEY)
            if paused.get(each, 0.0) <= clock.now:
                one.run()
        holders = [one.name for one in nodes if one.has()]
        assert len(holders) <= 2, holders
        had.update(holders)
    assert len(had) >= 4, "it has changed hands"


def test_five_hundred_nodes_that_want_the_same(clock: Clock, counting: Counting) -> None:
    """A fetch of a minute, by three at a time."""
    dice = random.Random(7)
    nodes = [Node(counting, f"node-{n}", clock, slots=3) for n in range(500)]
    for node in nodes:
        node.want(KEY)
        node.due = clock.now + dice.uniform(0.0, 5.0)
    began: dict[str, float] = {}
    rates: list[int] = []
    done = 0
    for second in range(180):
        clock.now += 1.0
        before = len(counting.asked)
        for node in nodes:
            node.run()
            if node.has() and clock.now - began.setdefault(node.name, clock.now) >= 60:
                node.want()
                node.run()
                done += 1
        assert sum(node.has() for node in nodes) <= 3
        rates.append(len(counting.asked) - before)
        if second > 5:
            assert rates[-1] <= 200
    assert done >= 5, "two or three rounds of three"
    steady = rates[90:]
    assert sum(steady) / len(steady) <= 15, "a second, of five hundred"
    print(f"requests: {sum(rates[:60])} in the first minute, {sum(steady)} in the last 90 s")


def test_the_label_and_the_name_are_such_as_the_server_takes(
    admin: Client, clock: Clock, tmp_path: Path
) -> None:
    odd = "s3://bücket/" + "x" * 500 + " \n?"
    node = Node(admin, "node", clock, slots=1)
    node.want(odd)
    node.run()
    assert node.has(odd)
    with pytest.raises(ClusterError):
        admin.get(LEASES, "nothing-like-it", SPACE)
