"""Read-ahead of the real kernel: what we say reads ahead for a file is what does."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from modelcache.host.backing import Backing, Host, Kind, NoReadAhead
from modelcache.host.mounts import Mount
from modelcache.host.readahead import Change, Outcome, ReadAhead, Records
from modelcache.host.selecting import Rule, Wanted
from tests.support.mounts import bound, loop_mounted, tmpfs
from tests.support.passthrough import passed_through

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20
EXT4 = ("mkfs.ext4", "-q")
BTRFS = ("mkfs.btrfs", "-q")
BDI = Path("/sys/devices/virtual/bdi")


def wanted(backing: Backing, point: Path) -> Wanted:
    return Wanted(backing, Rule("path", str(point), "auto"), (PurePosixPath(point),))


class Tuned:
    """Read-ahead of what is behind a path, with records in a folder."""

    def __init__(self, place: Path, state: Path, host: Host | None = None) -> None:
        self.host = host or Host()
        self.backing = self.host.backing_of_path(place)
        self._place = place
        state.mkdir(exist_ok=True)
        self.ahead = ReadAhead(self.host, Records(state / "former.json", noted))

    def apply(self, kib: int) -> Change:
        return self.ahead.apply(wanted(self.backing, self._place), kib)

    def restore(self) -> Change:
        (change,) = self.ahead.restore()
        return change

    @property
    def kib(self) -> int:
        return int((BDI / self.backing.bdi / "read_ahead_kb").read_text())


def pages_around(file: Path) -> int:
    """How many pages of a cold file come in when one in its middle is touched through a mapping.

    By that the read-ahead that counts is seen, whatever sysfs says: the kernel reads as much around
    it (do_sync_mmap_readahead in mm/filemap.c).
    """
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            assert mapped[len(mapped) // 2] >= 0
            there = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
            first = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(first))
            done = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(mapped)), there)
            del first
    assert done == 0
    return sum(page & 1 for page in there)


def noted(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def written(place: Path) -> Path:
    """A file of 8 MiB, on the disk."""
    file = place / "weights"
    file.write_bytes(os.urandom(8 * MEBIBYTE))
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return file


@contextmanager
def btrfs(place: Path) -> Iterator[Path]:
    with loop_mounted(place, 256 * MEBIBYTE, *BTRFS) as disk:
        yield disk


@contextmanager
def fuse(place: Path) -> Iterator[Path]:
    source = place.with_name("source")
    source.mkdir()
    (source / "weights").write_bytes(os.urandom(8 * MEBIBYTE))
    with passed_through(source, place) as shown:
        yield shown


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    with loop_mounted(place.with_name("disk"), 64 * MEBIBYTE, *EXT4) as disk:
        layers = {name: disk / name for name in ("lower", "upper", "work")}
        for folder in (*layers.values(), place):
            folder.mkdir()
        options = ",".join(f"{name}dir={folder}" for name, folder in layers.items())
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


@contextmanager
def ext4(place: Path) -> Iterator[Path]:
    with loop_mounted(place, 64 * MEBIBYTE, *EXT4) as disk:
        yield disk


@pytest.mark.parametrize(
    ("made", "kind"),
    [(ext4, Kind.DISK), (btrfs, Kind.DISK), (overlay, Kind.DISK), (fuse, Kind.FUSE)],
    ids=["ext4", "btrfs", "overlay", "fuse"],
)
def test_what_is_set_is_what_files_are_read_with(made: type, kind: Kind, tmp_path: Path) -> None:
    with made(tmp_path / "place") as place:
        file = place / "weights" if made is fuse else written(place)
        tuned = Tuned(place, tmp_path / "state")
        assert tuned.backing.kind is kind
        former = tuned.kib
        assert tuned.apply(64).after == 64
        assert pages_around(file) * mmap.PAGESIZE == 64 * 1024
        assert tuned.apply(1024).after == 1024
        assert pages_around(file) * mmap.PAGESIZE == 1024 * 1024
        assert tuned.restore().after == former == tuned.kib


def test_a_loop_device_is_not_read_ahead_as_the_file_behind_it_is(tmp_path: Path) -> None:
    with ext4(tmp_path / "place") as place:
        tuned = Tuned(place, tmp_path / "state")
        assert tuned.backing.name.startswith("loop")
        (below,) = tuned.backing.layers
        assert below.bdi == Host().backing_of_path(tmp_path).bdi != tuned.backing.bdi


def test_memory_is_refused(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", MEBIBYTE) as place, pytest.raises(NoReadAhead, match="tmpfs"):
        Host().backing_of_path(place)


def test_every_mount_of_this_machine_is_understood_or_refused() -> None:
    host = Host()

    def found(mount: Mount) -> Backing | None:
        try:
            return host.backing(mount)
        except NoReadAhead:
            return None

    backings = [each for each in map(found, host.mounts()) if each is not None]
    assert backings
    for each in backings:
        assert (BDI / each.bdi / "read_ahead_kb").exists()
        assert host.identity(each.bdi, host.mounts()) == each.identity


@pytest.mark.parametrize("made", [ext4, btrfs, fuse])
def test_a_device_that_goes_away_in_the_middle(made: type, tmp_path: Path) -> None:
    with made(tmp_path / "place") as place:
        tuned = Tuned(place, tmp_path / "state")
        assert tuned.apply(1024).outcome is Outcome.SET
        backing = tuned.backing
    failed = tuned.apply(4096)
    if backing.bdi.startswith("7:"):
        # A loop device that is detached stays, empty, with a number of its own.
        number = Host().identity(backing.bdi, Host().mounts())
        assert number != backing.identity
        (BDI / backing.bdi / "read_ahead_kb").write_text("128")
    else:
        assert (failed.outcome, failed.message) == (Outcome.FAILED, "the device is gone")
    assert tuned.restore().outcome is Outcome.LEFT


def test_another_file_system_under_the_same_number(tmp_path: Path) -> None:
    with fuse(tmp_path / "place") as place:
        tuned = Tuned(place, tmp_path / "state")
        tuned.apply(1024)
        other = replace(tuned.backing, identity="another 0:1")
        tuned.ahead.apply(wanted(other, place), 2048)
        assert tuned.restore().message == "it is another device now"
        assert tuned.kib == 2048


def test_sysfs_that_is_read_only(tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(ext4(tmp_path / "place"))
        bdi = stack.enter_context(bound(BDI, tmp_path / "bdi", "ro"))
        tuned = Tuned(place, tmp_path / "state", Host(bdi=bdi))
        failed = tuned.apply(4096)
        assert failed.outcome is Outcome.FAILED
        assert failed.message == "sysfs is read-only here: mount /sys/devices/virtual/bdi writable"
        assert failed.before == failed.after == tuned.kib
        # It is tried again and again.
        assert not (tmp_path / "state/former.json").exists()


def test_sysfs_of_a_container(tmp_path: Path) -> None:
    """The bdi folder by itself, writable, and the rest read-only, both outside of /sys."""
    with ExitStack() as stack:
        place = stack.enter_context(ext4(tmp_path / "place"))
        sys = stack.enter_context(bound(Path("/sys"), tmp_path / "sys", "ro"))
        bdi = stack.enter_context(bound(BDI, tmp_path / "bdi"))
        tuned = Tuned(place, tmp_path / "state", Host(sys=sys, bdi=bdi))
        former = tuned.kib
        assert tuned.apply(1024).after == 1024 == tuned.kib
        assert tuned.restore().after == former == tuned.kib
