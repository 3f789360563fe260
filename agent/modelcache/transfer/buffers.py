"""Buffers that are reused and bounded in number: memory stays flat whatever a file's size is."""

from __future__ import annotations

import mmap
import threading

PIECE_BYTES = 1024 * 1024
"""What is received, hashed, written and journaled as one. A kill loses at most one a connection."""


class Buffers:
    """A pool of buffers of `PIECE_BYTES`, page-aligned (as direct I/O wants them)."""

    def __init__(self, spare: int) -> None:
        """`spare`: how many may be lent out besides those that were asked for with `must`."""
        self._mutex = threading.Lock()
        self._free: list[memoryview] = []
        self._spare = spare

    def must(self) -> memoryview:
        """A buffer, made if there is none. For one in each connection's hands."""
        with self._mutex:
            if self._free:
                return self._free.pop()
        return memoryview(mmap.mmap(-1, PIECE_BYTES))

    def may(self) -> memoryview | None:
        """A buffer to keep data in for a while, or None when enough are kept."""
        with self._mutex:
            if self._spare == 0:
                return None
            self._spare -= 1
            if self._free:
                return self._free.pop()
        return memoryview(mmap.mmap(-1, PIECE_BYTES))

    def give_back(self, buffer: memoryview, *, spare: bool = False) -> None:
        """Return a buffer; `spare` when it came from `may`."""
        with self._mutex:
            self._free.append(buffer)
            if spare:
                self._spare += 1
