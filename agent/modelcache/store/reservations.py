"""Space promised to fetches before their first byte, so that two of them never share it.

A reservation is a file that says how many bytes are promised and not yet on the disk. All processes
on the root count each other's: one writes its own first and then adds them all up, so that of two
that come at once at most one is told yes. A reservation whose process died counts for nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import PROCESS_TOKEN, Lock, try_lock

_STALE_SECONDS = 600.0
_REWRITE_BYTES = 256 * 1024 * 1024
_VIEW_BYTES_PER_FILE = 512
"""Directory entries of a file's names in blobs, plain view and hub view, generously."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The file system below the root, in bytes.

    `available` is what fetches may still take: free for us, less the part kept free, less what is
    reserved.
    """

    capacity: int
    available: int
    reserved: int


@dataclass(frozen=True, slots=True)
class KeepFree:
    """What the cache leaves free of its file system: so many bytes, or a share of the capacity."""

    bytes: int = 0
    ratio: float = 0.0

    def of(self, capacity: int) -> int:
        """In bytes."""
        return max(self.bytes, int(capacity * self.ratio))


class Reservation:
    """Bytes promised to one fetch. `consume` them as they reach the disk."""

    def __init__(self, path: Path, lock: Lock | None, size: int, scratch: Path) -> None:
        self._path = path
        self._lock = lock
        self._scratch = scratch
        self._mutex = threading.Lock()
        self._left = self._written = size

    def write(self) -> None:
        """Tell all processes. No reader sees half of it; it needn't outlive a power cut."""
        try:
            self._scratch.write_text(json.dumps({"bytes": self._left}))
            self._scratch.rename(self._path)
        except BaseException:
            self._scratch.unlink(missing_ok=True)
            raise
        self._written = self._left

    def consume(self, size: int) -> None:
        """So many of the bytes are on the disk now."""
        with self._mutex:
            self._left = max(0, self._left - size)
            if self._lock is not None and self._written - self._left >= _REWRITE_BYTES:
                with suppress(OSError):  # on a full disk too much stays promised, for a while
                    self.write()

    def release(self) -> None:
        """Give back what is left."""
        with self._mutex:
            self._path.unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.release(remove=True)
                self._lock = None


class Space:
    """The disk below a root, and who has been promised what."""

    def __init__(
        self, layout: Layout, durable: Durable, *, keep_free: KeepFree, locks_reliable: bool
    ) -> None:
        self._layout = layout
        self._durable = durable
        self._keep_free = keep_free
        self._locks_reliable = locks_reliable
        self._turn = threading.Lock()

    @property
    def block(self) -> int:
        """Bytes that the file system gives out at a time."""
        return os.statvfs(self._layout.root).f_frsize or 4096

    def measure(self) -> DiskSpace:
        """What there is now."""
        found = os.statvfs(self._layout.root)
        capacity = found.f_blocks * found.f_frsize
        reserved = sum(self._promised())
        free = found.f_bavail * found.f_frsize - self._keep_free.of(capacity)
        return DiskSpace(capacity=capacity, available=max(0, free - reserved), reserved=reserved)

    def _promised(self) -> Iterator[int]:
        for path in list(self._layout.reservations.glob("*.json")):
            try:
                promised = int(json.loads(path.read_text())["bytes"])
                age = time.time() - path.stat().st_mtime
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                promised, age = 0, _STALE_SECONDS  # torn by a crash
            if path.name.startswith(PROCESS_TOKEN):
                if not self._locks_reliable:
                    with suppress(FileNotFoundError):
                        os.utime(path)  # others tell by its age that we live
                yield promised
                continue
            if self._locks_reliable:
                lock = try_lock(path.with_suffix(".lock"))
                if lock is not None:
                    path.unlink(missing_ok=True)
                    lock.release(remove=True)
                    continue
            elif age >= _STALE_SECONDS:
                path.unlink(missing_ok=True)
                continue
            yield promised

    @contextmanager
    def reserve(self, needed: int, *, files: int, what: str) -> Iterator[Reservation]:
        """Promise `needed` bytes in `files` files to a fetch, as long as the block lasts.

        Raises:
            InsufficientDisk: they are not there, or not that many inodes, or not in time.
        """
        needed += files * _VIEW_BYTES_PER_FILE
        name = self._durable.temporary().name
        path = self._layout.reservations / f"{PROCESS_TOKEN}.{name}.json"
        with disk_errors(needed):
            lock = try_lock(path.with_suffix(".lock"))
        reservation = Reservation(path, lock, needed, self._layout.scratch / name)
        try:
            # One thread at a time, so that of two that fit one by one the first is told yes.
            with self._turn, disk_errors(needed):
                reservation.write()
                self._check(needed, files, what)
            yield reservation
        finally:
            reservation.release()

    def sweep(self) -> None:
        """Remove what processes left that died between taking the lock and writing."""
        if not self._locks_reliable:
            return
        for path in list(self._layout.reservations.glob("*.lock")):
            if not path.with_suffix(".json").exists():
                lock = try_lock(path)
                if lock is not None:
                    lock.release(remove=True)

    def _check(self, needed: int, files: int, what: str) -> None:
        found = os.statvfs(self._layout.root)
        capacity = found.f_blocks * found.f_frsize
        kept = self._keep_free.of(capacity)
        others = max(0, sum(self._promised()) - needed)
        available = found.f_bavail * found.f_frsize - kept - others
        if needed > available:
            raise InsufficientDisk(
                f"{what} needs {_human(needed)} and {self._layout.root} has"
                f" {_human(max(0, available))} to give ({_human(kept)} are kept free,"
                f" {_human(others)} are promised to other fetches): free"
                f" {_human(needed - available)}, or evict a model (modelcache evict NAME)",
                needed=needed,
                available=max(0, available),
            )
        if found.f_files and files * 2 > found.f_favail:
            raise InsufficientDisk(
                f"{what} needs {files * 2} inodes and {self._layout.root} has"
                f" {found.f_favail} left",
                needed=needed,
                available=max(0, available),
            )


def _human(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
