from __future__ import annotations

from modelcache.planning.describing import Progress
from modelcache.service.fetchrates import FetchRates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def moved(size: int) -> dict[str, Progress]:
    return {"m": Progress(moved=size)}


def test_a_rate_is_of_the_last_half_minute() -> None:
    clock = Clock()
    rates = FetchRates(clock)
    assert rates.look(moved(0)) == {}
    clock.now += 1
    assert rates.look(moved(10)) == {}  # too soon to tell
    clock.now += 1
    assert rates.look(moved(20)) == {"m": 10.0}
    for _ in range(60):
        clock.now += 1
        found = rates.look(moved(20))
    assert found == {"m": 0.0}


def test_it_is_told_however_seldom_one_looks() -> None:
    clock = Clock()
    rates = FetchRates(clock)
    rates.look(moved(0))
    clock.now += 300
    assert rates.look(moved(600)) == {"m": 2.0}


def test_one_that_begins_anew_or_ends_is_forgotten() -> None:
    clock = Clock()
    rates = FetchRates(clock)
    rates.look(moved(100))
    clock.now += 5
    assert rates.look(moved(0)) == {}
    clock.now += 5
    assert rates.look(moved(50)) == {"m": 10.0}
    rates.look({})
    clock.now += 5
    assert rates.look(moved(60)) == {}
