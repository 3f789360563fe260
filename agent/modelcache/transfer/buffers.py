"""Buffers that are reused and bounded in number: memory stays flat whatever a file's size is."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import suppress

from modelcache.errors import ModelCacheError

PIECE_BYTES = 1024 * 1024
"""What is received, hashed, written and journaled as one. A kill loses at most one a connection."""

_ARENA_BYTES = 8 * PIECE_BYTES


class Buffers:
    """A pool of buffers of `PIECE_BYTES`, page-aligned, as direct I/O wants them. Safe for threads.

    Each connection has one (`must`). Beside these there are spare ones, for what came before its
    turn: they are promised first (`reserve`), so that nobody receives what can't be kept.
    """

    def __init__(self, spare: int) -> None:
        """`spare`: how many may be lent out besides those that were asked for with `must`."""
        self._mutex = threading.Lock()
        self._free: list[memoryview] = []
        self._spare = spare
        self._refused = 0
        self.on_spare: Callable[[], None] = lambda: None
        """Called when as many are to be had again as were refused."""

    def must(self) -> memoryview:
        """A buffer, made if there is none.

        Raises:
            ModelCacheError: there is no memory for it.
        """
        with self._mutex:
            if self._free:
                return self._free.pop()
            return self._make()

    def _make(self) -> memoryview:
        try:
            arena = mmap.mmap(-1, _ARENA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ModelCacheError(
                f"there is no memory for buffers of {_ARENA_BYTES} bytes ({error.strerror}): raise"
                " the limit of this process"
            ) from error
        with suppress(OSError):  # a kernel without huge pages
            arena.madvise(mmap.MADV_HUGEPAGE)
        memory = memoryview(arena)
        self._free += (memory[i : i + PIECE_BYTES] for i in range(0, _ARENA_BYTES, PIECE_BYTES))
        return self._free.pop()

    def reserve(self, count: int) -> bool:
        """Have so many spare buffers promised; whether they are. Each is then to be had by `must`,
        and its promise given back with `release` when it was given back, or not needed."""
        with self._mutex:
            if count > self._spare:
                self._refused = count
                return False
            self._spare -= count
            return True

    def release(self, count: int) -> None:
        """Give promises back."""
        with self._mutex:
            self._spare += count
            tell = 0 < self._refused <= self._spare
            if tell:
                self._refused = 0
        if tell:
            self.on_spare()

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer."""
        with self._mutex:
            self._free.append(buffer)
