"""Reading that leaves the page cache as it was.

What nobody but us asked for is not to push out what pods use. So a file is read past the page
cache (open(2), O_DIRECT), which also has the disk asked and not the memory. Where a file system
takes none, or serves it from the page cache all the same (btrfs: compressed and inline extents),
the pages that were not there before are dropped again, and no others: those are a pod's.

A page that somebody else brings in while just that mebibyte is being read may go as well, unless it
is mapped: between the two looks the kernel doesn't tell whose it is.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from modelcache.host.pagecache import drop, resident_pages

PIECE_BYTES: Final = 1024 * 1024
"""What is read at once: a hundredth of a second even on slow disks, so that stops are prompt."""
_BEYOND_BYTES: Final = 256 * 1024
"""btrfs brings in the rest of a compressed extent, which is at most 128 KiB."""
_BLOCK_BYTES: Final = 4096
"""What direct I/O wants offsets and lengths to be multiples of, on all usual devices."""


class ColdFile:
    """One file, open for reading. For one thread."""

    def __init__(self, path: Path) -> None:
        """Open it; a symbolic link is not followed.

        Raises:
            OSError
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(path, flags)
        self._direct = -1
        # At a page's beginning, as direct I/O wants it.
        self._view = memoryview(mmap.mmap(-1, PIECE_BYTES))
        with suppress(OSError):  # not on this file system
            self._direct = os.open(path, flags | os.O_DIRECT)
            if not os.path.sameopenfile(self.fd, self._direct):  # replaced in between
                os.close(self._direct)
                self._direct = -1
        for fd in (self.fd, self._direct):
            if fd >= 0:
                # Else the kernel reads ahead, and brings in more than was asked for.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        for fd in (self.fd, self._direct):
            if fd >= 0:
                os.close(fd)
        self.fd = self._direct = -1

    def read(self, offset: int) -> memoryview:
        """Bytes from `offset` on, at most `PIECE_BYTES`; none at the end. Good until the next call.

        `offset` is a multiple of `PIECE_BYTES`.

        Raises:
            OSError
        """
        left = os.fstat(self.fd).st_size - offset
        size = min(PIECE_BYTES, left)
        if size <= 0:
            return self._view[:0]
        looked = min(PIECE_BYTES + _BEYOND_BYTES, left)
        before = resident_pages(self.fd, offset, looked)
        count = 0
        try:
            while count < size and (got := self._read_some(offset + count, count)):
                count += got
        finally:
            self._drop_new(offset, looked, before)
        return self._view[: min(count, size)]

    def _read_some(self, offset: int, filled: int) -> int:
        # A direct read is short only where the file ends; whatever else cuts it goes on the other
        # way.
        if self._direct >= 0 and offset % _BLOCK_BYTES == 0:
            try:
                return os.preadv(self._direct, [self._view[filled:]], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(self._direct)
                self._direct = -1
        return os.preadv(self.fd, [self._view[filled:]], offset)

    def _drop_new(self, start: int, size: int, before: bytes) -> None:
        if 0 not in before:
            return
        for first, last in _runs(before, resident_pages(self.fd, start, size)):
            place = start + first * mmap.PAGESIZE
            drop(self.fd, place, (last - first) * mmap.PAGESIZE)


def _runs(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """(first, past the last) of each run of pages that are there and were not."""
    new = bytes(now & ~then & 1 for then, now in zip(before, after, strict=True))
    first = new.find(1)
    while first >= 0:
        last = new.find(0, first)
        last = len(new) if last < 0 else last
        yield first, last
        first = new.find(1, last)
