"""Space promised to fetches before their first byte, so that two of them never share it.

A reservation is a file that says how many bytes and inodes are promised and not yet on the disk.
All processes on the root count each other's: one writes its own first and then adds them all up, so
that of two that come at once at most one is told yes. A reservation whose process died counts for
nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.store.locking import PROCESS_TOKEN, Lock, try_lock
from modelcache.store.notes import ANY_SHAPE, count, parsed, read_note, text

_STALE_SECONDS = 600.0
_MOST_BYTES = 64 * 1024
_REWRITE_BYTES = 256 * 1024 * 1024
_REWRITE_SHARE = 16
"""Others see what is left of a promise to so many parts of it, or to so many bytes."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised and not yet on the disk.

    Attributes:
        bytes, inodes: so many.
        what: to whom: a model's name, mostly.
        names: bytes of directories and notes beside that.
    """

    bytes: int
    inodes: int = 0
    what: str = ""
    names: int = 0


class Reservation:
    """Bytes promised to one fetch. `consume` them as they reach the disk."""

    def __init__(
        self,
        path: Path,
        lock: Lock | None,
        promise: Promise,
        scratch: Path,
        on_consumed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_consumed` is told how many bytes are on the disk more."""
        self._path = path
        self._lock = lock
        self._scratch = scratch
        self._promise = promise
        self._on_consumed = on_consumed
        self._mutex = threading.Lock()
        self._left = self._written = promise.bytes
        self._step = min(_REWRITE_BYTES, promise.bytes // _REWRITE_SHARE + 1)

    @property
    def left(self) -> Promise:
        """What is promised and not yet on the disk, to the byte: others see it a little late."""
        return replace(self._promise, bytes=self._left)

    def write(self) -> None:
        """Tell all processes. No reader sees half of it; it needn't outlive a power cut."""
        promise = self._promise
        told: dict[str, int | str]
        told = {"bytes": self._left, "inodes": promise.inodes, "what": promise.what}
        if promise.names:
            told["names"] = promise.names
        try:
            self._scratch.write_text(json.dumps(told))
            self._scratch.rename(self._path)
        except BaseException:
            self._scratch.unlink(missing_ok=True)
            raise
        self._written = self._left

    def consume(self, size: int) -> None:
        """So many of the bytes are on the disk now."""
        self._on_consumed(size)
        with self._mutex:
            self._left = max(0, self._left - size)
            if self._lock is not None and self._written - self._left >= self._step:
                with suppress(OSError):  # on a full disk too much stays promised, for a while
                    self.write()

    def release(self) -> None:
        """Give back what is left."""
        with self._mutex:
            self._path.unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.release(remove=True)
                self._lock = None


def promises(
    folder: Path, *, locks_reliable: bool, own: Mapping[str, Reservation]
) -> Iterator[Promise]:
    """What all processes on the root are promised; of one that died the reservation is removed.

    `own` are those that are at hand, by the names of their files.
    """
    for path in list(folder.glob("*.json")):
        try:
            promise = _read(path)
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue
        except ANY_SHAPE:
            promise, age = Promise(0), _STALE_SECONDS  # torn by a crash
        if path.name.startswith(PROCESS_TOKEN):
            if not locks_reliable:
                with suppress(FileNotFoundError):
                    os.utime(path)  # others tell by its age that we live
            at_hand = own.get(path.name)
            yield at_hand.left if at_hand is not None else promise
            continue
        if locks_reliable:
            lock = try_lock(path.with_suffix(".lock"))
            if lock is not None:
                path.unlink(missing_ok=True)
                lock.release(remove=True)
                continue
        elif age >= _STALE_SECONDS:
            with suppress(OSError):  # a file system that is read-only
                path.unlink(missing_ok=True)
            continue
        yield promise


def _read(path: Path) -> Promise:
    told = parsed(read_note(path, _MOST_BYTES))
    # Programs from before inodes were counted write the bytes alone.
    inodes, names = count(told.get("inodes", 0)), count(told.get("names", 0))
    return Promise(count(told["bytes"]), inodes, text(told.get("what", "")), names)


def sweep(folder: Path) -> None:
    """Remove what processes left that died between taking the lock and writing."""
    for path in list(folder.glob("*.lock")):
        if not path.with_suffix(".json").exists():
            lock = try_lock(path)
            if lock is not None:
                lock.release(remove=True)
