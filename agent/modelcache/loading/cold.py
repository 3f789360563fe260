"""Files out of memory before each reading, and a look whether they were."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from modelcache.errors import ModelCacheError
from modelcache.host.pagecache import NotTold, drop, resident_bytes
from modelcache.loading.reader import ReadFailed, Reading
from modelcache.loading.ways import Part

_WARM: Final = 0.05
"""So much of a file in memory makes a reading look faster than the device is."""
_WARM_UNSEEN: Final = 0.5
"""The same where the kernel says that nothing is in memory, but was not asked for everything on the
disk either: less may be what a file system compresses."""
_STILL: Final = 1.0
"""Seconds without a page less: then they are not on their way from the disk."""
_PATIENCE: Final = 30.0
_LOOK: Final = 0.02


class NotCold(ModelCacheError):
    """What was read was, or is, in memory: this tells nothing about the device."""


class Cold:
    """Has the files that are read leave memory."""

    def __init__(
        self, parts: Sequence[Part], *, counted: bool, stopped: Callable[[], bool]
    ) -> None:
        """Take what is read.

        Args:
            parts: the files, or their beginnings.
            counted: whether the kernel counts what a process reads from there.
            stopped: asked now and then whether to stop.
        """
        self._parts = parts
        self._counted = counted
        self._stopped = stopped
        self._told = True
        self._stuck = 0

    def share_in_memory(self) -> float:
        """How much of what is read is in memory now, from 0 to 1; 0 where the kernel doesn't tell.

        Raises:
            ReadFailed: a file is gone.
        """
        there = 0
        for part in self._parts:
            with _opened(part) as fd, suppress(NotTold):
                there += resident_bytes(fd, part.size)
        return there / sum(part.size for part in self._parts)

    def make(self) -> None:
        """Drop the files' pages. What the reading before had asked for ahead, and is still on its
        way from the disk, is waited for: until it has come it can't be dropped, and the disk is
        busy with it.

        Raises:
            NotCold: they stay.
            ReadFailed: a file is gone, or it was stopped.
        """
        self._write_back()
        began = since = time.monotonic()
        least, in_parts = self.drop()
        now_there = least
        while self._stuck < now_there:
            now = time.monotonic()
            if now_there < least:
                least, since = now_there, now
            if now - since > _STILL or now - began > _PATIENCE:
                self._stuck = now_there
                break
            if self._stopped():
                raise ReadFailed("stopped")
            time.sleep(_LOOK)
            now_there, in_parts = self.drop()
        share = in_parts / sum(part.size for part in self._parts)
        if share > _WARM:
            raise NotCold(
                f"{share:.0%} of the files stayed in memory, since another process has them mapped"
                " or locked, or writes them, so it would not be the device's speed"
            )

    def check(self, reading: Reading) -> None:
        """See that what was read came from the disk.

        Raises:
            NotCold: not all of it did.
        """
        if not self._counted or reading.from_disk is None or not reading.done.size:
            return
        share = 1 - reading.from_disk / reading.done.size
        if share > (_WARM_UNSEEN if self._told else _WARM):
            raise NotCold(
                f"{share:.0%} of what was read did not come from the disk: another process has the"
                " files in memory, or they are sparse, so it was not the device's speed"
            )

    def drop(self) -> tuple[int, int]:
        """Drop the files' pages; how many bytes stay of the files, and of what is read of them. 0,
        where the kernel doesn't tell.

        Raises:
            ReadFailed: a file is gone.
        """
        found = [self._drop(part) for part in self._parts]
        return sum(whole for whole, _ in found), sum(in_part for _, in_part in found)

    def _write_back(self) -> None:
        """Only what is on the disk is dropped."""
        for part in self._parts:
            with _opened(part) as fd, suppress(OSError):  # what can't be written back stays
                os.fsync(fd)

    def _drop(self, part: Part) -> tuple[int, int]:
        with _opened(part) as fd:
            drop(fd)
            try:
                whole = resident_bytes(fd, os.fstat(fd).st_size) if self._told else 0
                return whole, resident_bytes(fd, part.size) if whole else 0
            except NotTold:
                self._told = False
                return 0, 0


@contextmanager
def _opened(part: Part) -> Iterator[int]:
    try:
        fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ReadFailed(f"{part.path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
