"""Past the page cache where that can be, through it where not: the bytes are the same."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelcache.store import Ingest, Partial
from modelcache.store.durable import Durable
from modelcache.transfer.buffers import PIECE_BYTES, Buffers

SIZE = 5 * PIECE_BYTES + 4711
CONTENT = random.Random(7).randbytes(SIZE)


def claim(folder: Path) -> Partial:
    for name in ("scratch", "partial"):
        (folder / name).mkdir(parents=True)
    ingest = Ingest(folder / "partial", Durable(folder / "scratch"), locks_reliable=True)
    return ingest.claim("key", SIZE)


def write(partial: Partial, start: int, end: int) -> None:
    """As a connection does: from the beginning of one of its buffers."""
    buffer = Buffers(0).must()
    buffer[: end - start] = CONTENT[start:end]
    partial.write(buffer[: end - start], start)


def read(partial: Partial, start: int, end: int) -> bytes:
    buffer = Buffers(0).must()
    partial.read_into(buffer[: end - start], start)
    return bytes(buffer[: end - start])


cuts = st.lists(st.integers(0, SIZE), max_size=8).map(
    lambda found: sorted({0, SIZE, *found, *range(0, SIZE, PIECE_BYTES)})
)
"""Where pieces end: where they ought to, and where connections broke."""


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=cuts, order=st.randoms(use_true_random=False))
def test_whatever_pieces_come_the_bytes_are_right(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], order: random.Random
) -> None:
    partial = claim(tmp_path_factory.mktemp("direct"))
    partial.allocate()
    pieces = list(pairwise(cuts))
    order.shuffle(pieces)
    for start, end in pieces:
        write(partial, start, end)
        assert read(partial, start, end) == CONTENT[start:end]
    os.fsync(partial.fd)
    assert partial.data.read_bytes() == CONTENT
    partial.discard()


def test_whole_blocks_leave_the_page_cache_as_it_was(tmp_path: Path) -> None:
    partial = claim(tmp_path)
    partial.allocate()
    write(partial, 0, PIECE_BYTES)
    assert cached_pages(partial.data) == 0
    write(partial, PIECE_BYTES, PIECE_BYTES + 10)
    assert cached_pages(partial.data) == 1, "a part of a block goes through it"
    partial.discard()


def cached_pages(path: Path) -> int:
    """Pages of a file in the page cache: mincore(2)."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found)
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in found)


def test_a_file_system_that_takes_it_back_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = claim(tmp_path)
    partial.allocate()
    real, refused = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if fd != partial.fd:
            refused.append(fd)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for start in range(0, SIZE, PIECE_BYTES):
        write(partial, start, min(SIZE, start + PIECE_BYTES))
    assert len(refused) == 1, "it is not asked for again"
    assert partial.data.read_bytes() == CONTENT
    partial.discard()


def test_any_other_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = claim(tmp_path)

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="Input/output"):
        write(partial, 0, PIECE_BYTES)
    partial.discard()


def test_through_the_page_cache_little_is_left_unwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))  # type: ignore[func-returns-value]
    monkeypatch.setattr("modelcache.store.partial._DIRTY_BYTES", 2 * PIECE_BYTES)
    partial = claim(tmp_path)
    write(partial, 0, PIECE_BYTES)
    write(partial, PIECE_BYTES, 2 * PIECE_BYTES)
    assert synced == [], "past the page cache nothing is left"
    partial._direct, kept = -1, partial._direct
    for start in range(0, 4 * PIECE_BYTES, PIECE_BYTES):
        write(partial, start, start + PIECE_BYTES)
    assert synced == [partial.fd, partial.fd]
    partial._direct = kept
    partial.close()


def test_after_a_failed_sync_nothing_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    partial = claim(tmp_path)
    write(partial, 0, PIECE_BYTES)
    partial.record(0, PIECE_BYTES, 0xABC)
    monkeypatch.setattr("modelcache.store.partial._DIRTY_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", fails)
    partial._direct, kept = -1, partial._direct
    with pytest.raises(OSError, match="Input/output"):
        write(partial, PIECE_BYTES, 2 * PIECE_BYTES)
    partial._direct = kept
    partial.close()
    assert list((tmp_path / "partial").iterdir()) == []
