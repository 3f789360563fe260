"""Bandwidth, back-off and cancelling."""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from typing import Literal

import pytest

from modelcache.errors import Cancelled
from modelcache.host.ioprio import set_io_priority
from modelcache.transfer import Cancel, delay
from modelcache.transfer.limiting import Bandwidth, Pace
from modelcache.transfer.spending import Times, spending, taken


class Clock:
    """A cancel whose waits move a clock instead of taking time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_bandwidth_is_kept_on_average() -> None:
    clock = Clock()
    limit = Bandwidth(1000.0, clock=clock)
    for _ in range(100):
        limit.take(500, clock)  # type: ignore[arg-type]
    assert clock.now - 100.0 == pytest.approx(50.0, abs=0.2)


def test_a_pause_is_no_credit_for_a_flood() -> None:
    clock = Clock()
    limit = Bandwidth(1000.0, clock=clock)
    clock.now += 3600
    for _ in range(10):
        limit.take(1000, clock)  # type: ignore[arg-type]
    assert clock.now - 3700.0 == pytest.approx(10.0, abs=0.2)


def test_an_origins_limit_comes_besides_that_of_all() -> None:
    clock = Clock()
    everything = Bandwidth(1000.0, clock=clock)
    pace = Pace(everything, {"hf": Bandwidth(100.0, clock=clock)})
    for origin, seconds in (("hf", 100.0), ("s3", 10.0), ("", 10.0)):
        began, pace.origin = clock.now, origin
        for _ in range(100):
            pace.take(100, clock)  # type: ignore[arg-type]
        assert clock.now - began == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("priority", "kind", "level"), [("normal", 0, 0), ("low", 2, 7), ("idle", 3, 0)]
)
def test_the_priority_on_the_disk_is_the_threads_own(
    priority: Literal["normal", "low", "idle"], kind: int, level: int
) -> None:
    """ioprio_get(2), by the kernel's own numbers."""
    get = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    libc = ctypes.CDLL(None)
    found: list[int] = []

    def look() -> None:
        assert set_io_priority(priority)
        found.append(libc.syscall(get, 1, 0))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert (found[0] >> 13, found[0] & 7) in ((kind, level), (kind, level or 4))
    assert libc.syscall(get, 1, 0) >> 13 == 0, "the process has another priority now"


def test_time_is_added_up_for_each_thread_alone() -> None:
    taken()
    with spending("disk"):
        pass
    with spending("disk"):
        pass
    other: list[Times] = []
    thread = threading.Thread(target=lambda: other.append(taken()))
    thread.start()
    thread.join()
    mine = taken()
    assert mine.disk > 0 == mine.origin
    assert other[0].disk == 0 == taken().disk
    assert (mine.bounded_by, other[0].bounded_by) == ("disk", None)


def test_no_limit_never_waits() -> None:
    Bandwidth(None).take(10**12, Cancel())


@pytest.mark.parametrize("failures", [1, 2, 3, 10, 10_000])
def test_delays_double_up_to_the_most(failures: int) -> None:
    ceiling = min(60.0, 0.5 * 2.0 ** min(failures - 1, 50))
    for _ in range(50):
        assert ceiling / 2 <= delay(failures, first=0.5, most=60.0) <= ceiling


def test_the_origins_wish_counts_up_to_the_most() -> None:
    assert delay(1, first=0.5, most=60.0, wish=20.0) == 20.0
    assert delay(1, first=0.5, most=60.0, wish=86_400.0) == 60.0
    assert delay(9, first=0.5, most=60.0, wish=0.0) >= 30.0


def test_a_child_is_cancelled_with_its_parent_but_not_the_other_way_round() -> None:
    parent = Cancel()
    child, sibling = Cancel(parent), Cancel(parent)
    sibling.set()
    assert not parent.is_set()
    assert not child.is_set()
    parent.set()
    assert child.is_set()


def test_waiting_ends_at_once_when_cancelled() -> None:
    cancel = Cancel()
    threading.Timer(0.05, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        cancel.wait(30)
    assert time.monotonic() - began < 5


def test_callbacks_run_once_and_only_while_they_are_wanted() -> None:
    cancel, called = Cancel(), list[str]()
    with cancel.calling(lambda: called.append("over")):
        pass
    with cancel.calling(lambda: called.append("on")):
        cancel.set()
    with cancel.calling(lambda: called.append("late")):
        pass
    assert called == ["on", "late"]


def test_a_closed_child_is_forgotten() -> None:
    parent = Cancel()
    child = Cancel(parent)
    child.close()
    parent.set()
    assert not child.is_set()
