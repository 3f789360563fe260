from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from modelcache.errors import InsufficientDisk, NotFound, UnsafePath, UsageError
from modelcache.store import LONGEST_SECONDS, Lease, Store
from modelcache.store import leases as leases_module
from modelcache.store.leases import Leases

DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(store: Store, clock: Clock) -> Callable[[], Leases]:
    return lambda: Leases(store.layout, store._durable, clock=clock)


def test_a_lease_holds_until_it_expires_also_for_the_next_process(
    opened: Callable[[], Leases], clock: Clock
) -> None:
    lease = opened().take("m", 60.0, snapshot="r1", holder="the benchmark")
    assert opened().all() == [Lease(lease.id, "m", "r1", "the benchmark", clock.now + 60.0)]
    clock.now += 59.0
    assert [each.id for each in opened().all()] == [lease.id]
    clock.now += 1.0
    assert opened().all() == []


def test_what_has_expired_is_swept(
    store: Store, opened: Callable[[], Leases], clock: Clock
) -> None:
    opened().take("m", 60.0)
    stays = opened().take("m", 120.0)
    clock.now += 61.0
    opened().sweep()
    assert [path.stem for path in store.layout.leases.iterdir()] == [stays.id]


def test_the_store_s_sweep_is_theirs_too(store: Store) -> None:
    past = store.leases.take("m", 60.0)
    path = store.layout.leases / f"{past.id}.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "expires": 1.0}))
    store.sweep()
    assert not path.exists()


def test_a_lease_is_released(store: Store, opened: Callable[[], Leases]) -> None:
    lease = opened().take("m", 60.0)
    opened().release(lease.id)
    assert list(store.layout.leases.iterdir()) == []
    with pytest.raises(NotFound, match="modelcache leases lists them"):
        opened().release(lease.id)


@pytest.mark.parametrize("name", ["../layout", "/etc/passwd", "", "."])
def test_nothing_else_is_released(store: Store, opened: Callable[[], Leases], name: str) -> None:
    opened().take("m", 60.0)
    with pytest.raises(NotFound):
        opened().release(name)
    assert store.layout.marker.exists()


@pytest.mark.parametrize("seconds", [0.0, -1.0, LONGEST_SECONDS + 1, float("inf"), float("nan")])
def test_a_lease_has_bounds(opened: Callable[[], Leases], seconds: float) -> None:
    with pytest.raises(UsageError, match="30 days"):
        opened().take("m", seconds)
    assert opened().all() == []


def test_what_a_lease_names_is_checked(opened: Callable[[], Leases]) -> None:
    with pytest.raises(UnsafePath):
        opened().take("../m", 60.0)
    with pytest.raises(UnsafePath):
        opened().take("m", 60.0, snapshot="../r1")
    with pytest.raises(UsageError):
        opened().take("m", 60.0, holder="x" * 201)
    with pytest.raises(UsageError):
        opened().take("m", 60.0, holder="two\nlines")


def test_there_are_so_many_leases_at_most(
    opened: Callable[[], Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "MOST_LEASES", 2)
    opened().take("m", 60.0)
    opened().take("m", 60.0)
    with pytest.raises(InsufficientDisk, match="release some"):
        opened().take("m", 60.0)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"model": "../m"},
        {"model": None},
        {"snapshot": "../r"},
        {"holder": None},
        {"expires": "soon"},
        {"expires": None},
        {"expires": float("nan")},
    ],
)
def test_one_that_can_t_be_read_is_of_any_model_and_stays(
    store: Store, opened: Callable[[], Leases], clock: Clock, change: dict[str, object]
) -> None:
    lease = opened().take("m", 60.0)
    path = store.layout.leases / f"{lease.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    clock.now += 100 * DAY
    assert [(each.id, each.model) for each in opened().all()] == [(lease.id, None)]
    opened().sweep()
    assert [(each.id, each.model) for each in opened().all()] == [(lease.id, None)]
    opened().release(lease.id)
    assert opened().all() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 60_000, b" " * 100_000, b"\xff"])
def test_rubbish_is_of_any_model(
    store: Store, opened: Callable[[], Leases], content: bytes
) -> None:
    store.layout.leases.mkdir()
    (store.layout.leases / "mine.json").write_bytes(content)
    (store.layout.leases / "README").write_bytes(content)
    assert [(each.id, each.model) for each in opened().all()] == [("mine", None)]


def test_what_can_t_be_opened_is_of_any_model(store: Store, opened: Callable[[], Leases]) -> None:
    store.layout.leases.mkdir()
    os.mkdir(store.layout.leases / "folder.json")
    assert [(each.id, each.model) for each in opened().all()] == [("folder", None)]


def test_after_the_clock_was_set_back_a_lease_lasts_no_longer_than_one_may(
    opened: Callable[[], Leases], clock: Clock
) -> None:
    lease = opened().take("m", 60.0)
    clock.now -= 1000 * DAY
    (seen,) = opened().all()
    assert (seen.id, seen.expires) == (lease.id, clock.now + LONGEST_SECONDS)
    opened().sweep()
    clock.now += LONGEST_SECONDS + 1.0
    assert opened().all() == []


class Machine:
    """Its clock that is set, its clock that isn't, and its boots."""

    def __init__(self, store: Store) -> None:
        self.now, self.steady, self.boot = 1_000_000.0, 500.0, "one"
        self.leases = Leases(
            store.layout,
            store._durable,
            clock=lambda: self.now,
            steady=lambda: self.steady,
            boot_id=lambda: self.boot,
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds


@pytest.mark.parametrize("ahead", [3600.0, DAY, 365 * DAY])
def test_a_clock_that_is_set_ahead_ends_no_lease(store: Store, ahead: float) -> None:
    machine = Machine(store)
    machine.leases.take("m", 600.0)
    machine.now += ahead
    machine.passes(590.0)
    machine.leases.sweep()
    (lease,) = machine.leases.all()
    assert lease.expires == machine.now + 10.0
    machine.passes(10.0)
    assert machine.leases.all() == []
    machine.leases.sweep()
    assert list(store.layout.leases.iterdir()) == []


def test_after_a_boot_the_clock_alone_tells(store: Store) -> None:
    machine = Machine(store)
    machine.leases.take("m", 600.0)
    machine.now, machine.steady, machine.boot = machine.now + DAY, 5.0, "two"
    assert machine.leases.all() == []


@pytest.mark.parametrize(
    "note", [{}, {"ahead": "x"}, {"ahead": None}, {"ahead": 1e400}, {"ahead": 10**400}]
)
def test_a_lease_that_says_nothing_of_clocks_ends_by_the_clock(
    store: Store, note: dict[str, object]
) -> None:
    machine = Machine(store)
    lease = machine.leases.take("m", 600.0)
    path = store.layout.leases / f"{lease.id}.json"
    document = json.loads(path.read_text())
    del document["ahead"]
    path.write_text(json.dumps({**document, **note}))
    machine.now += DAY
    assert machine.leases.all() == []


def test_the_store_s_leases_know_the_clock_that_nobody_sets(store: Store) -> None:
    lease = store.leases.take("m", 600.0)
    document = json.loads((store.layout.leases / f"{lease.id}.json").read_text())
    assert document["boot"]
    assert abs(document["ahead"] - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) < 5
