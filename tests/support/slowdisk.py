"""A disk that takes few requests a second, as those of clouds do. For tests that run as root."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcache.host.mounts import read_mounts
from tests.support.mounts import run, tmpfs, unmount

READ_IOPS = 800


@dataclass(frozen=True)
class SlowDisk:
    """An ext4 on a loop device of its own, whose file is in memory: how busy this machine's disks
    are plays no part."""

    place: Path
    image: Path
    device: str
    """`major:minor`, which is the name of its bdi, too."""

    @property
    def read_ahead_kb(self) -> int:
        """KiB."""
        return int(self._read_ahead.read_text())

    @read_ahead_kb.setter
    def read_ahead_kb(self, kib: int) -> None:
        self.set(kib)

    def set(self, kib: int) -> None:
        """Have it read so many KiB ahead."""
        self._read_ahead.write_text(str(kib))

    @property
    def _read_ahead(self) -> Path:
        return Path(f"/sys/class/bdi/{self.device}/read_ahead_kb")

    def put(self, name: str, size: int) -> Path:
        """A file of random bytes."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # in one piece
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
            file.flush()
            os.fsync(file.fileno())
        return path

    def pull(self) -> None:
        """Nothing that was not read before can be read any more: EIO."""
        os.truncate(self.image, 0)


@contextmanager
def slow_disk(place: Path, size: int, read_iops: int | None = READ_IOPS) -> Iterator[SlowDisk]:
    """A disk of so many bytes, of which this process and its children read slowly.

    Args:
        place: where it is mounted.
        size: bytes.
        read_iops: reads a second; None: as many as it can.
    """
    place.mkdir(parents=True)
    memory = place.with_name(f"{place.name}-memory")
    with tmpfs(memory, size + (1 << 20)), _loop(memory / "image", size) as loop:
        device = Path(f"/sys/block/{Path(loop).name}/dev").read_text().strip()
        # A loop device keeps what its user before has set.
        queue = Path(f"/sys/block/{Path(loop).name}/queue")
        largest = (queue / "max_hw_sectors_kb").read_text()
        (queue / "max_sectors_kb").write_text(largest)
        disk = SlowDisk(place, memory / "image", device)
        usual = disk.read_ahead_kb
        run("mount", loop, str(place))
        try:
            with nullcontext() if read_iops is None else _slowed(device, read_iops):
                yield disk
        finally:
            unmount(place)
            disk.set(usual)


@contextmanager
def _loop(image: Path, size: int) -> Iterator[str]:
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    # Blocks as on large disks. Of the small ones that a small disk would get, some are read one by
    # one, where a large folio goes over the end of an extent: hundreds of requests for a megabyte.
    run("mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", str(image))
    loop = run("losetup", "--find", "--show", str(image))
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)


@contextmanager
def _slowed(device: str, read_iops: int) -> Iterator[None]:
    """Move this process into a cgroup that may read so often: v1's controller, or v2's."""
    mounts = read_mounts()
    found = [m for m in mounts if m.fs_type == "cgroup" and "blkio" in m.fs_options]
    v2 = not found
    found = found or [m for m in mounts if m.fs_type == "cgroup2"]
    if not found:
        pytest.skip("no cgroup for disks is mounted here")
    root = Path(found[0].point)
    before = next(
        path
        for _, controllers, path in (
            line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()
        )
        if ("blkio" in controllers.split(",") if not v2 else not controllers)
    )
    group = root / f"modelcache-test-{os.getpid()}-{secrets.token_hex(4)}"
    if v2:
        (root / "cgroup.subtree_control").write_text("+io")
    group.mkdir()
    try:
        if v2:
            (group / "io.max").write_text(f"{device} riops={read_iops}")
        else:
            (group / "blkio.throttle.read_iops_device").write_text(f"{device} {read_iops}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        _end(group)


def _end(group: Path) -> None:
    """Remove a cgroup, and end what a failed test has left in it."""
    deadline = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)  # a cgroup tells nobody that its last process is gone
