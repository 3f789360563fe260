"""A disk that fails, and one that was made read-only. For tests that run as root."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.waiting import eventually
from tests.support.mounts import run, unmount

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h): what a file system does with itself whose disk fails."""
_WITHOUT_ITS_LOG = 2


class SickDisk:
    """An ext4 on a loop device."""

    def __init__(self, place: Path, device: str) -> None:
        self.place = place
        self._device = device

    def fail(self) -> None:
        """Everything that would be read or written is EIO from here on."""
        run("sync", "-f", str(self.place))
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_ITS_LOG))
        finally:
            os.close(fd)

    def mount_again(self) -> None:
        """As a person does, once the disk was looked after; whoever has files open keeps these."""
        run("umount", "--lazy", str(self.place))
        run("mount", self._device, str(self.place))

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Whoever writes waits meanwhile, as where a network or a controller is away."""
        run("fsfreeze", "--freeze", str(self.place))
        try:
            yield
        finally:
            run("fsfreeze", "--unfreeze", str(self.place))

    def make_read_only(self) -> None:
        """As Linux does after an error. A person, as here, has to wait for who writes just then."""
        eventually(self._is_read_only, timeout=20, what="a moment in which nobody writes")

    def _is_read_only(self) -> bool:
        command = ("mount", "-o", "remount,ro", str(self.place))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        return done.returncode == 0

    def make_writable(self) -> None:
        """As a person does after a check."""
        run("mount", "-o", "remount,rw", str(self.place))


@contextmanager
def sick_disk(place: Path, size: int) -> Iterator[SickDisk]:
    """A disk of so many bytes, which is well at first."""
    place.mkdir(parents=True)
    image = place.with_name(f"{place.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        run("mount", device, str(place))
        try:
            yield SickDisk(place, device)
        finally:
            unmount(place)
    finally:
        run("losetup", "--detach", device)
        image.unlink()
