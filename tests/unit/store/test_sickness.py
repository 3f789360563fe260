"""When a disk counts as failing, when as down, and when as well again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import DiskFailed, OriginUnavailable, StoreDamaged
from modelcache.store.sickness import DiskState, Sickness, probe, sick_error

IO_ERROR = OSError(errno.EIO, "Input/output error")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
FULL = OSError(errno.ENOSPC, "No space left on device")
HOUR = 3600.0


@pytest.fixture
def disk() -> Sickness:
    return Sickness(Path("/cache"))


def test_it_is_well_until_something_is_wrong(disk: Sickness) -> None:
    assert disk.health(0).state is DiskState.OK
    disk.probed(None, 0)
    assert disk.health(0).reason == "DiskHealthy"
    assert disk.pause() == 30


def test_one_bad_sector_makes_no_disk_down(disk: Sickness) -> None:
    for second in range(100):
        disk.noted("a read failed", second)
        disk.probed(None, second)
    found = disk.health(100)
    assert (found.state, found.reason) == (DiskState.FAILING, "DiskFailing")
    assert "/cache: a read failed" in found.message


def test_after_an_hour_of_calm_it_is_well(disk: Sickness) -> None:
    disk.noted("a read failed", 0)
    disk.probed(None, 1)
    assert disk.health(HOUR - 1).state is DiskState.FAILING
    assert disk.health(HOUR).state is DiskState.OK


def test_two_probes_that_fail_make_it_down(disk: Sickness) -> None:
    disk.probed(IO_ERROR, 0)
    assert disk.health(0).state is DiskState.FAILING
    disk.probed(IO_ERROR, 5)
    found = disk.health(5)
    assert (found.state, found.reason) == (DiskState.DOWN, "DiskFailed")
    assert "Input/output error" in found.message


def test_a_read_only_file_system_is_down_at_once(disk: Sickness) -> None:
    disk.probed(READ_ONLY, 0)
    assert (disk.health(0).state, disk.health(0).reason) == (DiskState.DOWN, "DiskReadOnly")


def test_a_probe_that_hangs_makes_it_down(disk: Sickness) -> None:
    disk.hangs(0)
    assert (disk.health(0).state, disk.health(0).reason) == (DiskState.DOWN, "DiskHangs")


def test_a_full_disk_is_a_healthy_one(disk: Sickness) -> None:
    for second in range(10):
        disk.probed(FULL, second)
    assert disk.health(10).state is DiskState.OK


def test_down_it_is_asked_ever_more_seldom(disk: Sickness) -> None:
    pauses = []
    for second in range(12):
        disk.probed(READ_ONLY, second)
        pauses.append(disk.pause())
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == max(pauses) == 300


def test_it_heals_after_two_probes_that_succeed(disk: Sickness) -> None:
    for second in range(10):
        disk.probed(READ_ONLY, second)
    disk.probed(None, 10)
    assert disk.health(10).state is DiskState.DOWN
    assert disk.pause() == 5
    disk.probed(None, 15)
    assert disk.health(15).state is DiskState.FAILING
    assert disk.health(15 + HOUR).state is DiskState.OK


def test_a_disk_that_comes_and_goes_stays_down(disk: Sickness) -> None:
    disk.probed(READ_ONLY, 0)
    for second in range(1, 20, 2):
        disk.probed(None, second)
        disk.probed(IO_ERROR, second + 1)
    assert disk.health(20).state is DiskState.DOWN


@given(st.lists(st.sampled_from([None, IO_ERROR, READ_ONLY, FULL]), max_size=30))
def test_down_only_by_probes_that_failed_and_well_only_by_those_that_did_not(
    probes: list[OSError | None],
) -> None:
    disk = Sickness(Path("/cache"))
    for second, found in enumerate(probes):
        before = disk.health(second).state
        disk.probed(found, second)
        after = disk.health(second).state
        if after is DiskState.DOWN and before is not DiskState.DOWN:
            assert found in (IO_ERROR, READ_ONLY)
        if before is DiskState.DOWN and after is not DiskState.DOWN:
            told = [each for each in probes[: second + 1] if each is not FULL]
            assert told[-2:] == [None, None]


def test_what_an_origin_s_disk_says_is_none_of_ours() -> None:
    of_the_origin = OriginUnavailable("file:///srv can't be read")
    of_the_origin.__cause__ = IO_ERROR
    ours = DiskFailed("the cache's disk fails")
    ours.__cause__ = IO_ERROR
    opening = StoreDamaged("can't be written")
    opening.__cause__ = READ_ONLY
    assert sick_error(of_the_origin) is None
    assert sick_error(ours) is IO_ERROR
    assert sick_error(opening) is READ_ONLY
    assert sick_error(IO_ERROR) is IO_ERROR
    assert sick_error(FULL) is None
    assert sick_error(ValueError()) is None
    assert sick_error(None) is None


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "gone")
