from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog

from modelcache.service import heartbeats
from modelcache.service.heartbeats import Task, Tasks
from modelcache.transfer import Cancel
from tests.support.cluster.waiting import eventually


@contextmanager
def running(cycle: Callable[[], float | None], late_after: float = 60.0) -> Iterator[Task]:
    cancel, task = Cancel(), Task("t", cycle, late_after=late_after)
    task.start(cancel)
    try:
        yield task
    finally:
        cancel.set()
        assert task.join(time.monotonic() + 5)


def test_a_wake_has_the_next_round_at_once() -> None:
    rounds = threading.Semaphore(0)

    def cycle() -> float:
        rounds.release()
        return 3600.0

    with running(cycle) as task:
        assert rounds.acquire(timeout=5)
        task.wake()
        assert rounds.acquire(timeout=5)


def test_it_ends_while_it_waits() -> None:
    began = threading.Event()
    with running(lambda: began.set()):
        assert began.wait(5)


def test_a_cancellation_that_comes_right_after_the_look_for_one_is_not_lost() -> None:
    class Late(Cancel):
        def is_set(self) -> bool:
            before = super().is_set()
            self.set()
            return before

    cancel, task = Late(), Task("t", lambda: 3600.0, late_after=10_800.0)
    task.start(cancel)
    assert task.join(time.monotonic() + 5)


def test_a_round_that_fails_is_logged_and_the_next_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_PAUSE_SECONDS", 0.001)
    rounds = threading.Semaphore(0)

    def cycle() -> float:
        rounds.release()
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs, running(cycle):
        for _ in range(3):
            assert rounds.acquire(timeout=5)
    assert logs[0]["event"] == "task.failed"
    assert logs[0]["task"] == "t"


def test_rounds_that_fail_come_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    task = Task("t", lambda: 1 / 0, late_after=600.0)
    cancel = Cancel()

    class Wake(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            if len(waits) == 9:
                cancel.set()
            return True

    monkeypatch.setattr(task, "_wake", Wake())
    with structlog.testing.capture_logs():
        task.start(cancel)
        assert task.join(time.monotonic() + 5)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_round_that_hangs_is_late() -> None:
    hang, began = threading.Event(), threading.Event()

    def cycle() -> None:
        began.set()
        hang.wait(10)

    with running(cycle, late_after=0.05) as task:
        assert began.wait(5)
        assert not task.late
        time.sleep(0.06)  # what is tested is that time passes
        assert task.late
        hang.set()


def test_one_that_waits_shows_that_it_is_alive() -> None:
    rounds = threading.Semaphore(0)

    def cycle() -> float:
        rounds.release()
        return 3600.0

    with running(cycle, late_after=0.3) as task:
        for _ in range(5):
            assert rounds.acquire(timeout=5)
            assert not task.late


def test_who_hangs_is_told_once_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_LOOK_SECONDS", 0.001)
    hang, began = threading.Event(), threading.Event()

    def hanging() -> None:
        began.set()
        hang.wait(10)

    tasks = Tasks(
        [Task("well", lambda: None, late_after=60.0), Task("hangs", hanging, late_after=0.05)]
    )
    cancel, looks = Cancel(), 0

    def each_look() -> None:
        nonlocal looks
        looks += began.is_set() and tasks.livez()[0] == 500
        if looks == 3:
            cancel.set()

    with structlog.testing.capture_logs() as logs:
        assert tasks.livez()[0] == 200
        tasks.start(cancel)
        tasks.watch(cancel, each_look)
        assert tasks.livez() == (500, "text/plain; charset=utf-8", b"hung: hangs\n")
        assert tasks.join(time.monotonic() + 0.5) == ["hangs"]
        hang.set()
        assert tasks.join(time.monotonic() + 5) == []
    assert logs == [
        {"event": "task.hung", "task": "hangs", "log_level": "error"},
        {"event": "task.left_behind", "tasks": ["hangs"], "log_level": "warning"},
    ]


def test_a_round_is_late_from_when_it_was_due() -> None:
    hang, began = threading.Event(), threading.Event()

    def cycle() -> float:
        began.set()
        hang.wait(10)
        return 3600.0

    with running(cycle) as task:
        assert began.wait(5)
        time.sleep(0.05)  # what is tested is that time passes
        assert 0.05 <= task.lag < 5
        hang.set()
        eventually(lambda: task.lag, lambda lag: lag == 0.0, timeout=5)


def test_a_wake_is_due_at_once() -> None:
    rounds, go = threading.Semaphore(0), threading.Semaphore(0)

    def cycle() -> float:
        rounds.release()
        go.acquire(timeout=5)
        return 3600.0

    with running(cycle) as task:
        assert rounds.acquire(timeout=5)
        task.wake()
        time.sleep(0.05)  # what is tested is that time passes
        go.release()
        assert rounds.acquire(timeout=5)
        assert task.lag < 0.05, "from the end of the round before"
        time.sleep(0.05)
        assert task.lag >= 0.05
        go.release()


def test_failures_and_hangs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_PAUSE_SECONDS", 0.001)
    rounds = threading.Semaphore(0)

    def cycle() -> float:
        rounds.release()
        raise ZeroDivisionError

    with structlog.testing.capture_logs(), running(cycle, late_after=60.0) as task:
        tasks = Tasks([task, Task("waits", lambda: None, late_after=-1.0)])
        for _ in range(3):
            assert rounds.acquire(timeout=5)
        failing, waits = tasks.states()
    assert failing.name == "t"
    assert failing.failures >= 2
    assert not failing.hung
    assert (waits.name, waits.failures, waits.hung) == ("waits", 0, True)
