"""The page cache of the real kernel: files on a disk of their own, so that nobody else's count."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.host import pagecache
from modelcache.host.pagecache import NotTold, drop, resident_bytes, warm
from tests.support.cgroups import memory_group
from tests.support.mounts import emptied_loop, loop_mounted, tmpfs

MEBIBYTE = 1 << 20
SIZE = 45 * MEBIBYTE + 4711
"""More than one window, and no whole page at the end."""

CONTENT = random.Random(11).randbytes(SIZE)

WITHOUT_CACHESTAT = pytest.param(None, id="mincore")
WAYS = [pytest.param(pagecache._CACHESTAT, id="cachestat"), WITHOUT_CACHESTAT]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def mostly(found: int) -> bool:
    """Almost all: some kernels (DAMON) drop pages that nobody has used for seconds."""
    return SIZE // 2 < found <= SIZE


def put(folder: Path, name: str = "weights") -> Path:
    path = folder / name
    with path.open("wb") as file:
        file.write(CONTENT)
        file.flush()
        os.fsync(file.fileno())
        drop(file.fileno())
    return path


@pytest.fixture(params=[128, 4096])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An ext4 whose device reads so many KiB ahead, and makes requests no larger than 128 KiB."""
    with loop_mounted(tmp_path / "disk", 256 * MEBIBYTE, "mkfs.ext4", "-q") as place:
        device = place.stat().st_dev
        queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue")
        given = {"max_sectors_kb": "128", "read_ahead_kb": str(request.param)}
        # Put back: a loop device keeps what its user before has set.
        usual = {name: (queue / name).read_text() for name in given}
        for name, value in given.items():
            (queue / name).write_text(value)
        try:
            yield place
        finally:
            for name, value in usual.items():
                (queue / name).write_text(value)


@pytest.mark.root
@pytest.mark.parametrize("cachestat", WAYS)
def test_a_cold_file_is_brought_in_and_dropped(
    disk: Path, cachestat: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagecache, "_CACHESTAT", cachestat)
    with opened(put(disk)) as fd:
        assert resident_bytes(fd, SIZE) == 0
        told: list[tuple[int, int]] = []
        assert warm(fd, SIZE, on_bytes=lambda *each: told.append(each)) == SIZE
        assert mostly(resident_bytes(fd, SIZE))
        assert mostly(pagecache._mincore(fd, 0, SIZE)), "it has come from the disk"
        assert [sum(each) for each in zip(*told, strict=True)] == [SIZE, SIZE]
        assert warm(fd, SIZE) < SIZE // 2
        drop(fd)
        assert resident_bytes(fd, SIZE) == 0


@pytest.mark.root
def test_a_device_with_a_small_read_ahead_is_asked_in_pieces_that_it_takes(disk: Path) -> None:
    """Not read afterwards what it left out: that is slower."""
    read: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(fd, size, offset)

    with opened(put(disk)) as fd, pytest.MonkeyPatch.context() as patches:
        patches.setattr(os, "pread", pread)
        warm(fd, SIZE)
    assert set(read) <= {1}, "one byte of each piece, to wait for it"


@pytest.mark.root
def test_a_device_that_reads_far_ahead_is_mapped(disk: Path) -> None:
    with opened(put(disk)) as fd, pytest.MonkeyPatch.context() as patches:
        if pagecache._read_ahead(fd) == 4 * MEBIBYTE:
            patches.delattr(os, "posix_fadvise")
        else:
            assert pagecache._read_ahead(fd) == 128 * 1024
            patches.setattr(pagecache, "_map", None)
        warm(fd, SIZE)


@pytest.mark.root
def test_what_is_there_is_not_read_again(disk: Path) -> None:
    with opened(put(disk)) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 3 * MEBIBYTE, 20 * MEBIBYTE)
        there = resident_bytes(fd, SIZE)
        assert 2 * MEBIBYTE < there <= 3 * MEBIBYTE
        assert SIZE - there <= warm(fd, SIZE) < SIZE
        assert mostly(resident_bytes(fd, SIZE))


WARM = """
import os, sys
from modelcache.host.pagecache import warm
fd = os.open(sys.argv[1], os.O_RDONLY)
for piece in range(3):
    warm(fd, os.fstat(fd).st_size)
    os.posix_fadvise(fd, piece << 20, 1 << 20, os.POSIX_FADV_DONTNEED)
"""


@pytest.mark.root
def test_what_is_there_does_not_count_as_used(disk: Path) -> None:
    """kubelet takes file pages that were used twice for memory that is needed."""
    path = put(disk)
    with memory_group(300 * MEBIBYTE) as group:
        subprocess.run(group.command(sys.executable, "-c", WARM, path), check=True)
        assert group.stat("active_file") < SIZE // 2


@pytest.mark.root
def test_a_file_is_not_mapped_as_a_whole(disk: Path) -> None:
    """Its page tables would take from the container's limit."""

    def mapped() -> int:
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("RssFile:") + 1]) * 1024

    with opened(put(disk)) as fd:
        before = mapped()
        most: list[int] = []
        warm(fd, SIZE, on_bytes=lambda *_: most.append(mapped() - before))
        assert max(most) < 8 * MEBIBYTE


@pytest.mark.root
def test_what_is_not_written_yet_is_not_dropped(disk: Path) -> None:
    with (disk / "new").open("wb") as file:
        file.write(CONTENT[:MEBIBYTE])
        file.flush()
        assert resident_bytes(file.fileno(), MEBIBYTE) == MEBIBYTE
    assert (disk / "new").read_bytes() == CONTENT[:MEBIBYTE]


@pytest.mark.root
def test_it_stops_at_once(disk: Path) -> None:
    class Stop(Exception):
        pass

    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Stop

    with opened(put(disk)) as fd:
        with pytest.raises(Stop):
            warm(fd, SIZE, check=check)
        # Where it reads 4 MiB ahead, that as well.
        assert MEBIBYTE < resident_bytes(fd, SIZE) <= 2 * pagecache._PIECE_BYTES + 8 * MEBIBYTE


@pytest.mark.root
def test_no_more_is_under_way_than_the_window(disk: Path) -> None:
    with opened(put(disk)) as fd:
        arrived = 0

        def arrives(size: int, _read: int) -> None:
            nonlocal arrived
            ahead = resident_bytes(fd, SIZE) - arrived
            assert ahead <= pagecache._WINDOW_BYTES
            arrived += size

        warm(fd, SIZE, on_bytes=arrives)


@pytest.mark.root
def test_a_file_in_memory_has_nothing_to_be_read(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "memory", 64 * MEBIBYTE) as place,
        opened(put(place)) as fd,
    ):
        assert resident_bytes(fd, SIZE) == SIZE
        assert warm(fd, SIZE) == 0


@pytest.mark.root
@pytest.mark.parametrize("far", [1 << 62, 0])
def test_a_disk_that_fails_is_told(
    tmp_path: Path, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagecache, "_FAR_BYTES", far)
    with (
        emptied_loop(tmp_path / "disk", 128 * MEBIBYTE, {"weights": CONTENT}) as disk,
        opened(tmp_path / "disk/weights") as fd,
    ):
        disk.empty()
        with pytest.raises(OSError, match="Input/output") as caught:
            warm(fd, SIZE)
        assert caught.value.errno == errno.EIO


AS_SOMEBODY = ("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups")


@pytest.mark.root
@pytest.mark.parametrize("cachestat", ["", "pagecache._CACHESTAT = None"])
def test_another_user_is_not_told(disk: Path, cachestat: str) -> None:
    path = put(disk)
    path.chmod(0o444)
    script = f"""
from modelcache.host import pagecache
{cachestat}
try:
    print(pagecache.resident_bytes(0, {SIZE}))
except pagecache.NotTold as error:
    print(error)
"""
    with path.open("rb") as file:  # where only root may go
        done = subprocess.run(
            [*AS_SOMEBODY, sys.executable, "-c", script],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
        )
    if not cachestat and done.stdout == "0\n":
        return  # a kernel before 6.15 tells everybody
    assert done.stdout.startswith(f"{path}: how much of it is in memory is told only"), done.stderr
    with opened(path) as fd:
        assert resident_bytes(fd, SIZE) == 0


def test_nothing_is_all_there(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with opened(tmp_path / "empty") as fd:
        assert resident_bytes(fd, 0) == 0
        assert warm(fd, 0) == 0


def test_the_errors_are_a_persons_to_mend() -> None:
    assert NotTold("x").exit_code == 2
