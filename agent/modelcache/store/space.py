"""The room that a cache has: what its disk gives, what it may take of that, what is promised.

A cache keeps to two limits. *Keep free* is what stays free of the file system, whoever else writes
there. *Capacity* is what the cache may take at most, however much is free.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from modelcache.errors import InsufficientDisk
from modelcache.store import reservations
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import PROCESS_TOKEN, try_lock
from modelcache.store.reservations import Promise, Reservation
from modelcache.store.usage import Usage, measure_usage

_VIEW_BYTES_PER_FILE = 512
"""Directory entries of a file's names in blobs, plain view and hub view, generously."""
MODEL_NAMES_BYTES: Final = 96 * 1024
"""Directories and notes of a model (views, manifest, receipts, what was shown), a block for each:
72 KiB on ext4 for a model of three files, and some more while it is fetched."""
_INODES_PER_FILE = 2
_TRIES = 3
_LOOKS = 6
_LOOK_SECONDS = 0.2
_MEASURE_SECONDS = 60.0
_MEASURE_SHARE = 100.0
_EXACT_SHARE = 10.0
_MOST_INODES_KEPT: Final = 0.1
"""Of all: kubelet collects images by bytes alone, and evicts pods where less than a twentieth of
the inodes are left (`nodefs.inodesFree`, https://kubernetes.io/docs/concepts/scheduling-eviction).
"""
_QUICK_SECONDS = 0.1
"""Counting that takes longer takes at most one part in so many of the time."""


@dataclass(frozen=True, slots=True)
class _Part:
    bytes: int = 0
    ratio: float = 0.0

    def of(self, size: int) -> int:
        """In bytes, of a file system of that size."""
        return max(self.bytes, int(size * self.ratio))


class KeepFree(_Part):
    """What the cache leaves free of its file system: so many bytes, or a share of its size."""

    __slots__ = ()

    def of_inodes(self, inodes: int) -> int:
        """The same share of so many inodes, and a tenth of them at most."""
        return int(inodes * min(self.ratio, _MOST_INODES_KEPT))


class Capacity(_Part):
    """What the cache takes at most of its file system: so many bytes, or a share of its size."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The file system below the root, in bytes.

    Attributes:
        capacity: its size.
        available: what fetches may still take: less what is kept free and what is reserved, and no
            more than the cache's own limit leaves.
        reserved: promised to fetches and not yet on the disk.
        used: what the root takes, as `du` counts.
        others: what everybody else takes.
        kept_free: what stays free of it.
        budget: what the cache may take in all, as things are.
        free: what is free for whoever writes there.
        inodes: all that there are; None where the file system doesn't count them.
        inodes_free: inodes that are left and not promised; None likewise.
        inodes_kept: how many of them stay free.
        promises: what is reserved, one by one.
    """

    capacity: int
    available: int
    reserved: int
    used: int = 0
    others: int = 0
    kept_free: int = 0
    budget: int = 0
    free: int = 0
    inodes: int | None = None
    inodes_free: int | None = None
    inodes_kept: int = 0
    promises: tuple[Promise, ...] = ()


class Space:
    """The disk below a root, and who has been promised what. Safe for threads."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        keep_free: KeepFree,
        locks_reliable: bool,
        capacity: Capacity | None = None,
    ) -> None:
        """`capacity` None: all that the file system gives."""
        self._layout = layout
        self._durable = durable
        self._keep_free = keep_free
        self._capacity = capacity
        self._locks_reliable = locks_reliable
        self._turn = threading.Lock()
        self._mutex = threading.Lock()
        self._own: dict[str, Reservation] = {}
        self._usage: Usage | None = None
        self._counted_at = self._cost = 0.0

    @property
    def block(self) -> int:
        """Bytes that the file system gives out at a time."""
        return os.statvfs(self._layout.root).f_frsize or 4096

    def measure(self, *, exact: bool = False) -> DiskSpace:
        """What there is now.

        What the root takes is counted anew once a minute, or more rarely where counting takes long;
        in between what fetches bring and evictions free is added. What else goes, as what turned
        out to be wrong, is not seen until then. `exact`: it is counted now.
        """
        promised, usage = self._both(lambda: self._known(exact=exact))
        return self._look(promised, usage)

    def _both(self, count: Callable[[], Usage]) -> tuple[tuple[Promise, ...], Usage]:
        """What is promised and what is taken, of one moment.

        What reaches the disk meanwhile would count twice: then once more, some times at most. Twice
        is better than not at all, so what is promised comes first.
        """
        promised, usage = self._promised(), count()
        for _ in range(_TRIES):
            after = self._promised()
            if sum(p.bytes for p in after) >= sum(p.bytes for p in promised):
                break
            promised, usage = after, count()
        return promised, usage

    def note(self, change: int) -> None:
        """The root takes so many bytes more, or, below zero, less."""
        with self._mutex:
            if self._usage is not None:
                self._usage = Usage(max(0, self._usage.bytes + change), self._usage.inodes)

    def _known(self, *, exact: bool) -> Usage:
        with self._mutex:
            usage, age = self._usage, time.monotonic() - self._counted_at
            most = max(_MEASURE_SECONDS, self._cost * _MEASURE_SHARE)
            if exact:
                most = self._cost * _EXACT_SHARE if self._cost > _QUICK_SECONDS else 0.0
        return usage if usage is not None and age < most else self._counted()

    def _counted(self) -> Usage:
        began = time.monotonic()
        usage = measure_usage(self._layout.root)
        with self._mutex:
            self._usage = usage
            self._counted_at = time.monotonic()
            self._cost = self._counted_at - began
        return usage

    def _look(self, promised: tuple[Promise, ...], usage: Usage) -> DiskSpace:
        found = os.statvfs(self._layout.root)
        size = found.f_blocks * found.f_frsize
        free = found.f_bavail * found.f_frsize
        kept = self._keep_free.of(size)
        budget = max(0, usage.bytes + free - kept)
        if self._capacity is not None:
            budget = min(budget, self._capacity.of(size))
        reserved = sum(promise.bytes + promise.names for promise in promised)
        inodes = found.f_favail - sum(promise.inodes for promise in promised)
        return DiskSpace(
            capacity=size,
            # Not from the budget, which is never below zero.
            available=max(0, self._left(size, free - kept, usage) - reserved),
            reserved=reserved,
            used=usage.bytes,
            others=max(0, (found.f_blocks - found.f_bfree) * found.f_frsize - usage.bytes),
            kept_free=kept,
            budget=budget,
            free=free,
            inodes=found.f_files or None,
            inodes_free=max(0, inodes) if found.f_files else None,
            inodes_kept=self._keep_free.of_inodes(found.f_files),
            promises=promised,
        )

    def _left(self, size: int, free: int, usage: Usage) -> int:
        """What of `free` the cache's own limit leaves, in bytes; below zero: it is passed."""
        if self._capacity is None:
            return free
        return min(free, self._capacity.of(size) - usage.bytes)

    def promised(self) -> frozenset[str]:
        """To whom something is promised now, of all processes: models' names, mostly."""
        return frozenset(promise.what for promise in self._promised())

    def _promised(self) -> tuple[Promise, ...]:
        found = reservations.promises(
            self._layout.reservations, locks_reliable=self._locks_reliable, own=dict(self._own)
        )
        return tuple(found)

    @contextmanager
    def reserve(
        self, needed: int, *, files: int, what: str, names: int = 0
    ) -> Iterator[Reservation]:
        """Promise `needed` bytes in `files` files to a fetch, as long as the block lasts, and as
        many as `names` to its directories.

        Raises:
            InsufficientDisk: they are not there, or not that many inodes, or not in time.
        """
        promise = promised_for(needed, files, what, names)
        name = self._durable.temporary().name
        path = self._layout.reservations / f"{PROCESS_TOKEN}.{name}.json"
        with disk_errors(promise.bytes):
            lock = try_lock(path.with_suffix(".lock"))
        scratch = self._layout.scratch / name
        reservation = Reservation(path, lock, promise, scratch, self.note)
        self._own[path.name] = reservation
        try:
            # One thread at a time, so that of two that fit one by one the first is told yes.
            with self._turn, disk_errors(promise.bytes):
                reservation.write()
                self._agree(promise, files)
            yield reservation
        finally:
            reservation.release()
            del self._own[path.name]

    def sweep(self) -> None:
        """Remove what processes left that died between taking the lock and writing."""
        if self._locks_reliable:
            reservations.sweep(self._layout.reservations)

    def _agree(self, promise: Promise, files: int) -> None:
        """Look whether a promise can be kept; again, for a second, where others' are in the way.

        A file of theirs that is just being made on the disk counts twice until it is.

        Raises:
            InsufficientDisk
        """
        for again in reversed(range(_LOOKS)):
            try:
                self._check(promise.bytes, files, promise.what)
            except InsufficientDisk as error:
                others = sum(each.bytes for each in self._promised()) - promise.bytes
                if not again or error.needed > error.available + others:
                    raise
            else:
                return
            time.sleep(_LOOK_SECONDS)

    def _check(self, needed: int, files: int, what: str) -> None:
        """Whether a promise that is written already can be kept.

        Raises:
            InsufficientDisk
        """
        # Counting all files is only worth its time where it decides.
        count = self._counted if self._capacity is not None else Usage
        promised, usage = self._both(count)
        found = os.statvfs(self._layout.root)
        size = found.f_blocks * found.f_frsize
        kept = self._keep_free.of(size)
        others = max(0, sum(each.bytes for each in promised) - needed)
        left = self._left(size, found.f_bavail * found.f_frsize - kept, usage)
        # What is told is what the content needs; the directories have to fit beside it.
        available = left - others - sum(each.names for each in promised)
        if needed > available:
            limits = [f"{human_size(kept)} are kept free"]
            if self._capacity is not None:
                limits.append(
                    f"the cache has {human_size(usage.bytes)} of the"
                    f" {human_size(self._capacity.of(size))} that it may take"
                )
            limits.append(f"{human_size(others)} are promised to other fetches")
            raise InsufficientDisk(
                f"{what} needs {human_size(needed)} and {self._layout.root} has"
                f" {human_size(max(0, available))} to give ({', '.join(limits)}): free"
                f" {human_size(needed - available)}, or evict a model (modelcache evict NAME)",
                needed=needed,
                available=max(0, available),
            )
        inodes = files * _INODES_PER_FILE
        inodes_kept = self._keep_free.of_inodes(found.f_files)
        inodes_left = found.f_favail - max(0, sum(each.inodes for each in promised) - inodes)
        inodes_left -= inodes_kept
        if found.f_files and inodes > inodes_left:
            raise InsufficientDisk(
                f"{what} needs {inodes} inodes and {self._layout.root} has"
                f" {max(0, inodes_left)} left ({inodes_kept} are kept free)",
                needed=needed,
                available=max(0, available),
            )


def promised_for(needed: int, files: int, what: str, names: int = 0) -> Promise:
    """What `needed` bytes of content in `files` files take in all, with their names."""
    size = needed + files * _VIEW_BYTES_PER_FILE
    return Promise(size, files * _INODES_PER_FILE, what, names)


def human_size(size: int) -> str:
    """`1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
