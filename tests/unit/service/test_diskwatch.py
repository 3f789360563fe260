"""A disk that fails, hangs and comes back, as the watch sees it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.errors import OriginUnavailable
from modelcache.service.diskwatch import DiskWatch
from modelcache.store.layout import Layout
from modelcache.store.sickness import DiskState


class Disk:
    """What probes find."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.probes = 0

    def probe(self) -> None:
        self.probes += 1
        self.answers.wait()
        if self.error is not None:
            raise self.error


def state_of(watch: DiskWatch) -> DiskState:
    return watch.health.state


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.answers.set()


@pytest.fixture
def changes() -> list[DiskState]:
    return []


@pytest.fixture
def watch(disk: Disk, changes: list[DiskState], tmp_path: Path) -> DiskWatch:
    made = DiskWatch(
        Layout(tmp_path),
        on_change=lambda: changes.append(state_of(made)),
        probing=disk.probe,
        patience=0.2,
    )
    return made


def test_it_tells_of_each_change_once(
    watch: DiskWatch, disk: Disk, changes: list[DiskState]
) -> None:
    watch.cycle()
    disk.error = OSError(errno.EROFS, "Read-only file system")
    for _ in range(3):
        watch.cycle()
    assert watch.is_down
    disk.error = None
    for _ in range(3):
        watch.cycle()
    assert changes == [DiskState.DOWN, DiskState.FAILING]
    assert not watch.is_down


def test_a_probe_that_hangs_is_waited_for_once(
    watch: DiskWatch, disk: Disk, changes: list[DiskState]
) -> None:
    disk.answers.clear()
    for _ in range(3):
        watch.cycle()
    assert watch.is_down
    assert disk.probes == 1
    disk.answers.set()
    for _ in range(3):
        watch.cycle()
    assert not watch.is_down
    assert changes[0] is DiskState.DOWN


def test_who_met_an_error_has_it_probed(disk: Disk, tmp_path: Path) -> None:
    woken = threading.Event()
    watch = DiskWatch(Layout(tmp_path), probing=disk.probe, wake=woken.set)
    watch.noted(OriginUnavailable("away"))
    watch.noted(OSError(errno.ENOENT, "no such file"))
    assert not woken.is_set()
    assert state_of(watch) is DiskState.OK
    watch.noted(OSError(errno.EIO, "Input/output error"))
    assert woken.is_set()
    assert state_of(watch) is DiskState.FAILING
    assert disk.probes == 0, "whoever tells is not held up"


def test_blame_is_found_out_at_once(watch: DiskWatch, disk: Disk) -> None:
    failed = OSError(errno.EIO, "Input/output error")
    assert not watch.is_to_blame(failed)
    disk.error = failed
    assert not watch.is_to_blame(OSError(errno.ENOENT, "gone"))
    assert watch.is_to_blame(failed)


def test_many_that_meet_its_errors_make_no_pause_longer(disk: Disk, tmp_path: Path) -> None:
    now = 0.0
    watch = DiskWatch(Layout(tmp_path), probing=disk.probe, clock=lambda: now)
    disk.error = OSError(errno.EIO, "Input/output error")
    for _ in range(4):
        assert watch.is_to_blame(disk.error)
        watch.cycle()
    pauses = [watch.cycle()]
    for _ in range(8):
        now += pauses[-1]
        assert watch.is_down_now("a read failed")
        pauses.append(watch.cycle())
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    disk.error = None
    now += pauses[-1]
    assert watch.cycle() == 5
