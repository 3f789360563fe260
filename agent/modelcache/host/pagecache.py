"""The page cache: how much of a file is in it, bringing it in, dropping it.

How much: cachestat(2), since Linux 6.5 (Documentation/ABI and mm/filemap.c), which counts the pages
of a range in one call; before that, or where a seccomp profile doesn't know it, mincore(2). The
kernel tells it only to who owns the file or may write it. (To others mincore calls every page
present, so they are not asked about.)

Bringing in: posix_fadvise(2) with WILLNEED has the kernel read ahead without a copy to us: one
thread keeps the disk busy, also where the device reads little ahead by itself. One call reads no
more than the larger of the device's read-ahead and its largest request (force_page_cache_ra in
mm/readahead.c) and doesn't say so: what a call takes is found out, and what did not come is read.
Where the device reads far ahead by itself, MADV_POPULATE_READ (since Linux 5.14) is half as fast
again and takes next to no processor time: the kernel then reads into large folios.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from modelcache.errors import UsageError

# arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h
_CACHESTAT: Final = {"x86_64": 451, "aarch64": 451}.get(platform.machine())
_NOT_HERE: Final = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)

_PIECE_BYTES: Final = 2 * 1024 * 1024
"""What is asked for in one call: the kernel's own unit for it."""
_LEAST_BYTES: Final = 64 * 1024
_BLIND_BYTES: Final = 128 * 1024
"""A piece where cachestat doesn't tell what a call took: Linux's usual read-ahead."""
_WINDOW_BYTES: Final = 32 * 1024 * 1024
"""What is asked for and has not come yet: the most that is read in vain after a stop."""
_FAR_BYTES: Final = _PIECE_BYTES
"""From this read-ahead on mapping is faster than asking: with 4 MiB by 1.4; with 1 MiB slower."""
_POPULATE_READ: Final = 22  # include/uapi/asm-generic/mman-common.h
_BATCH_BYTES: Final = 256 * 1024 * 1024
"""What mincore is asked about at once: a byte for each page."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_int64,
)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class NotTold(UsageError):
    """The kernel tells only who owns a file, or may write it, how much of it is in memory."""


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


def resident_bytes(fd: int, size: int) -> int:
    """How much of a file's first `size` bytes is in the page cache, or on its way there.

    Raises:
        NotTold: the file is another user's.
        OSError
    """
    return _resident(fd, 0, size)


def resident_pages(fd: int, start: int, length: int) -> bytes:
    """Which pages of a range are in the page cache: a byte for each, 1 or 0.

    `start` is at a page's beginning. Who is not told is told that all are: see above.

    Raises:
        OSError
    """
    return bytes(_residents(fd, start, length))


def drop(fd: int, start: int = 0, length: int = 0) -> None:
    """Drop a range of a file's pages, but for those that are mapped somewhere or not yet on the
    disk. `length` 0: to its end.

    Raises:
        OSError
    """
    os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)


def warm(
    fd: int,
    size: int,
    *,
    on_bytes: Callable[[int, int], None] = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Bring a file's first `size` bytes into the page cache, in order.

    What is there is not touched: the kernel would take it for used, and kubelet for needed.

    Args:
        fd: the open file.
        size: in bytes.
        on_bytes: told of bytes that are in memory, and how many of them had to be read.
        check: called between pieces of 2 MiB; to stop, it raises.

    Returns:
        How many bytes had to be read; the rest was there.

    Raises:
        NotTold: the file is another user's.
        OSError: the disk failed.
    """
    mapping = _read_ahead(fd) >= _FAR_BYTES and _can_populate()
    pieces = _map(fd, size, check) if mapping else _ask(fd, size, check)
    total = 0
    for length, read in pieces:
        total += read
        on_bytes(length, read)
    return total


def _map(fd: int, size: int, check: Callable[[], None]) -> Iterator[tuple[int, int]]:
    """Warm by mapping: the device reads ahead by itself. Gives pieces, and what was read of each.

    One piece is mapped at a time: page tables are charged to the container, too.
    """
    pieces = [(start, min(_PIECE_BYTES, size - start)) for start in range(0, size, _PIECE_BYTES)]
    # All of them first: one that was read ahead is mapped, too, or the kernel stops reading ahead.
    cold = [length - _resident(fd, start, length) for start, length in pieces]
    for (start, length), missing in zip(pieces, cold, strict=True):
        check()
        if missing:
            with _mapped(fd, start, length) as address:
                failed = _libc.madvise(address, length, _POPULATE_READ)
            if failed:
                _read(fd, start, length)  # it says that it failed, and this says why
        yield length, missing


def _ask(fd: int, size: int, check: Callable[[], None]) -> Iterator[tuple[int, int]]:
    """Warm by asking for what comes next. Gives pieces, and what was read of each."""
    asking = _Asking(fd)
    under_way: deque[tuple[int, int, int]] = deque()
    for start in range(0, size, _PIECE_BYTES):
        check()
        length = min(_PIECE_BYTES, size - start)
        cold = length - _resident(fd, start, length)
        if cold:
            asking.ask(start, length)
        under_way.append((start, length, cold))
        if len(under_way) * _PIECE_BYTES >= _WINDOW_BYTES:
            yield _await(fd, *under_way.popleft())
    while under_way:
        check()
        yield _await(fd, *under_way.popleft())


@lru_cache(maxsize=1)
def _can_populate() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            page.madvise(_POPULATE_READ)
        except OSError:
            return False
    return True


def _read_ahead(fd: int) -> int:
    """How far the device of a file reads ahead, in bytes; 0: not known."""
    device = os.fstat(fd).st_dev
    bdi = f"{os.major(device)}:{os.minor(device)}"
    # A file system's own, or that of the disk of which it is on a partition.
    for folder in (f"/sys/class/bdi/{bdi}", f"/sys/dev/block/{bdi}/../bdi"):
        with suppress(OSError, ValueError):
            return int(Path(folder, "read_ahead_kb").read_text()) * 1024
    return 0


class _Asking:
    """Has the kernel read ahead, in as large steps as it takes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._step = _PIECE_BYTES

    def ask(self, start: int, length: int) -> None:
        """Ask for a range. What the kernel doesn't take is read when it should have come."""
        end = start + length
        while start < end:
            size = min(self._step, end - start)
            os.posix_fadvise(self._fd, start, size, os.POSIX_FADV_WILLNEED)
            taken = _cachestat(self._fd, start, size)
            if taken is None:
                self._step = _BLIND_BYTES
            elif taken < size and self._step > _LEAST_BYTES:
                # Pages count from when they are asked for: the call was for too many.
                self._step //= 2
                continue
            start += size


def _await(fd: int, start: int, length: int, cold: int) -> tuple[int, int]:
    """Wait for a piece that was asked for, and read what of it did not come.

    Raises:
        OSError: the disk failed.
    """
    if cold:
        os.pread(fd, 1, start + length - 1)
        # Who is not told is told that all has come.
        if not _may_ask(fd) or _mincore(fd, start, length) < length:
            _read(fd, start, length)
    return length, cold


def _read(fd: int, start: int, length: int) -> None:
    end = start + length
    while start < end and (got := len(os.pread(fd, end - start, start))):
        start += got


def _resident(fd: int, start: int, length: int) -> int:
    if length == 0:
        return 0
    found = _cachestat(fd, start, length)
    if found is not None:
        return found
    if not _may_ask(fd):
        name = _name(fd)
        raise NotTold(
            f"{name}: how much of it is in memory is told only to its owner and to who may write"
            " it: run it as the user that the agent runs as"
        )
    found, end = 0, start + length
    while start < end:
        size = min(_BATCH_BYTES, end - start)
        found += _mincore(fd, start, size)
        start += size
    return found


def _cachestat(fd: int, start: int, length: int) -> int | None:
    """Bytes of a range that are in the page cache; None: not to be had so."""
    if _CACHESTAT is None:
        return None
    where, counts = _Range(start, length), _Counts()
    if _libc.syscall(_CACHESTAT, fd, ctypes.byref(where), ctypes.byref(counts), 0) == 0:
        return min(length, int(counts.cache) * mmap.PAGESIZE)
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return None
    raise OSError(number, os.strerror(number), _name(fd))


def _mincore(fd: int, start: int, length: int) -> int:
    """Bytes of a range that are in the page cache and have come from the disk.

    `start` is at a page's beginning.
    """
    return min(length, _residents(fd, start, length).count(1) * mmap.PAGESIZE)


def _residents(fd: int, start: int, length: int) -> bytearray:
    pages = bytearray(-(-length // mmap.PAGESIZE))
    into = (ctypes.c_char * len(pages)).from_buffer(pages)
    with _mapped(fd, start, length) as address:
        if _libc.mincore(address, length, ctypes.addressof(into)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), _name(fd))
    return pages


@contextmanager
def _mapped(fd: int, start: int, length: int) -> Iterator[int]:
    """A part of a file mapped; not touched, so that a disk that fails is no SIGBUS."""
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), _name(fd))
    try:
        yield address
    finally:
        _libc.munmap(address, length)


def _may_ask(fd: int) -> bool:
    """As the kernel decides it (can_do_mincore in mm/mincore.c)."""
    owner = os.fstat(fd).st_uid == os.geteuid()
    return owner or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)


def _name(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"file descriptor {fd}"
