"""How a host that asks for fewer requests is treated."""

from __future__ import annotations

import pytest

from modelcache.transfer.hosts import MOST_PAUSE_SECONDS, Hosts

A, B = "a.example", "b.example"


def hosts(connections: int = 8, most: int | None = None) -> Hosts:
    return Hosts(connections, most, first_delay=1.0, most_delay=30.0)


def busy(found: Hosts, count: int, name: str = A) -> None:
    for _ in range(count):
        found.began(name)


def test_without_a_limit_a_host_has_as_many_as_there_are() -> None:
    found = hosts()
    busy(found, 100)
    assert found.free(A, 0.0)


def test_a_limit_is_kept_for_each_host_alone() -> None:
    found = hosts(most=2)
    busy(found, 2)
    assert not found.free(A, 0.0)
    assert found.free(B, 0.0)
    found.ended(A)
    assert found.free(A, 0.0)
    assert found.free("", 0.0)


def test_a_refusal_pauses_the_host_and_halves_its_connections() -> None:
    found = hosts()
    busy(found, 8)
    busy(found, 8, B)
    pause = found.slow_down(A, began=9.0, now=10.0, wish=20.0)
    assert (pause.seconds, pause.allowed, pause.news) == (20.0, 4, True)
    for _ in range(8):
        found.ended(A)
    assert not found.free(A, 29.9)
    assert found.next_time(12.0) == 18.0
    assert found.free(A, 30.0)
    busy(found, 4)
    assert not found.free(A, 30.0)
    assert found.free(B, 10.0)


def test_those_that_were_under_way_don_t_halve_it_again() -> None:
    found = hosts()
    busy(found, 8)
    found.slow_down(A, began=9.0, now=10.0, wish=None)
    pauses = [found.slow_down(A, began=9.0, now=10.1, wish=5.0) for _ in range(7)]
    assert {pause.allowed for pause in pauses} == {4}
    assert not any(pause.news for pause in pauses)
    assert not found.free(A, 15.0), "but the longest wish counts"
    again = found.slow_down(A, began=16.0, now=17.0, wish=None)
    assert (again.allowed, again.news) == (2, True)


@pytest.mark.parametrize("wish", [86_400.0, 1e9])
def test_nobody_is_left_alone_for_ever(wish: float) -> None:
    found = hosts()
    busy(found, 1)
    assert found.slow_down(A, 0.0, 0.0, wish).seconds == MOST_PAUSE_SECONDS


def test_at_least_one_connection_is_left() -> None:
    found = hosts()
    busy(found, 1)
    for moment in range(1, 5):
        assert found.slow_down(A, moment, moment, None).allowed == 1


def test_pauses_grow_until_it_answers() -> None:
    found = hosts()
    busy(found, 8)
    pauses = [found.slow_down(A, t, t, None).seconds for t in (100.0, 200.0, 300.0, 400.0)]
    assert 0.5 <= pauses[0] <= 1.0
    assert 4.0 <= pauses[3] <= 8.0
    found.went_well(A, 500.0, 501.0)
    assert found.slow_down(A, 600.0, 600.0, None).seconds <= 1.0


def test_connections_grow_one_by_one_while_it_answers() -> None:
    found = hosts(connections=4)
    busy(found, 4)
    found.slow_down(A, 9.0, 10.0, None)
    assert found.allowed(A) == 2
    found.went_well(A, began=9.5, now=20.0)
    assert found.allowed(A) == 2, "an answer to what was asked before says nothing"
    for moment in (20.0, 20.1, 21.0, 24.9):
        found.went_well(A, moment, moment)
    assert found.allowed(A) == 3
    found.went_well(A, 25.1, 25.1)
    assert found.allowed(A) > 1000, "as many as there are is no limit any more"
    for _ in range(4):
        found.ended(A)
    assert not found._hosts, "who is as usual is forgotten"
