"""How engines read files: through a mapping, by read calls, past the page cache.

Each way reads the beginnings of files once, copies every byte out into memory that is used again,
and stops at a deadline: what is measured is the device, not memory being made.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Final

PIECE_BYTES: Final = 1024 * 1024
"""What is read by one call, or copied out of a mapping by one."""
THREADS: Final = 8
"""Readers side by side, in the ways that have several."""


class Way(StrEnum):
    """A way of reading."""

    MMAP = "mmap"
    """A mapping, copied out from front to back: safetensors, and so vLLM and most others."""
    MMAP_THREADS = "mmap-threads"
    """One mapping, in as many stretches as there are threads."""
    PREAD = "pread"
    """1 MiB a call, through the page cache."""
    DIRECT = "direct"
    """O_DIRECT, 1 MiB a call, several on their way: past the page cache, and so never read ahead.
    Streaming loaders read so."""
    SAFETENSORS = "safetensors"
    """The library itself, tensor by tensor, where it is installed."""

    @property
    def is_read_ahead(self) -> bool:
        """Whether the device's read-ahead plays a part."""
        return self is not Way.DIRECT


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a file: so many bytes of it."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Done:
    """What was read, in bytes, and in how many seconds."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.seconds


def missing_for(way: Way) -> str:
    """What isn't installed that this way needs; empty: nothing."""
    wanted = ("safetensors", "numpy") if way is Way.SAFETENSORS else ()
    return ", ".join(name for name in wanted if find_spec(name) is None)


def read(way: Way, parts: Sequence[Part], seconds: float) -> Done:
    """Read the parts one after the other, for so many seconds at most, but one piece at least.

    A device that fails under a mapping ends the process (SIGBUS): that is why `reader` has another.

    Raises:
        OSError
        ValueError: safetensors can't read the file.
    """
    began = time.monotonic()
    until = began + seconds
    done = 0
    for part in parts:
        done += _READERS[way](part, until)
        if time.monotonic() >= until:
            break
    return Done(done, time.monotonic() - began)


@contextmanager
def _opened(part: Part, flags: int = 0) -> Iterator[int]:
    fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _mapped(part: Part) -> Iterator[int]:
    """The address of a mapping."""
    # Private and writable, because only of such one does ctypes tell the address.
    with (
        _opened(part) as fd,
        mmap.mmap(fd, part.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapping,
    ):
        view = ctypes.c_char.from_buffer(mapping)
        try:
            yield ctypes.addressof(view)
        finally:
            del view


def _copy_out(address: int, start: int, end: int, until: float) -> int:
    """Copy a stretch of a mapping, piece by piece; other threads go on meanwhile."""
    into = ctypes.create_string_buffer(PIECE_BYTES)
    at = start
    while at < end:
        count = min(PIECE_BYTES, end - at)
        ctypes.memmove(into, address + at, count)
        at += count
        if time.monotonic() >= until:
            break
    return at - start


def _by_mmap(part: Part, until: float) -> int:
    with _mapped(part) as address:
        return _copy_out(address, 0, part.size, until)


def _by_mmap_threads(part: Part, until: float) -> int:
    length = -(-part.size // (THREADS * PIECE_BYTES)) * PIECE_BYTES
    with _mapped(part) as address, ThreadPoolExecutor(THREADS) as threads:
        stretches = [
            threads.submit(_copy_out, address, start, min(start + length, part.size), until)
            for start in range(0, part.size, length)
        ]
        return sum(stretch.result() for stretch in stretches)


def _by_pread(part: Part, until: float) -> int:
    into = bytearray(PIECE_BYTES)
    with _opened(part) as fd:
        return _call_by_call(fd, into, range(0, part.size, PIECE_BYTES), until)


def _by_direct(part: Part, until: float) -> int:
    offsets = iter(range(0, part.size, PIECE_BYTES))

    def read_some(fd: int) -> int:
        with mmap.mmap(-1, PIECE_BYTES) as into:  # whole pages, as O_DIRECT wants them
            return _call_by_call(fd, into, offsets, until)

    with _opened(part, os.O_DIRECT) as fd, ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(read_some, itertools.repeat(fd, THREADS)))


def _call_by_call(
    fd: int, into: bytearray | mmap.mmap, offsets: Iterator[int] | range, until: float
) -> int:
    done = 0
    for offset in offsets:
        done += os.preadv(fd, [into], offset)
        if time.monotonic() >= until:
            break
    return done


def _by_safetensors(part: Part, until: float) -> int:
    from safetensors import SafetensorError, safe_open

    with suppress(ImportError):
        import ml_dtypes  # noqa: F401 - numpy learns bfloat16 and the eight-bit floats from it
    done = 0
    try:
        with safe_open(part.path, framework="numpy") as file:
            for name in file.offset_keys():
                done += file.get_tensor(name).nbytes
                if done >= part.size or time.monotonic() >= until:
                    break
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(f"{part.path}: safetensors can't read it here: {error}") from error
    return done


_READERS: Final[dict[Way, Callable[[Part, float], int]]] = {
    Way.MMAP: _by_mmap,
    Way.MMAP_THREADS: _by_mmap_threads,
    Way.PREAD: _by_pread,
    Way.DIRECT: _by_direct,
    Way.SAFETENSORS: _by_safetensors,
}
