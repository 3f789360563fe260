"""Reading that leaves the page cache as it was, on file systems of the real kernel."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from modelcache.host.coldread import PIECE_BYTES, ColdFile
from modelcache.host.pagecache import drop, resident_bytes, resident_pages
from tests.support.mounts import loop_mounted, run

MEBIBYTE = 1 << 20
SIZE = 9 * MEBIBYTE + 4711
CONTENT = random.Random(7).randbytes(SIZE)

_TRIES = 5
"""Of btrfs's compressed files the kernel takes some pages by itself: in one of twenty to a hundred
looks, also where nobody reads anything. What we drop wrongly is gone each time."""

Refuse = Callable[[], None]


def put(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "weights"
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        drop(file.fileno())
    return path


def read_all(path: Path) -> bytes:
    found = bytearray()
    with ColdFile(path) as file:
        while data := file.read(len(found)):
            found += data
    return bytes(found)


def pages_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return resident_pages(file.fileno(), 0, path.stat().st_size)


def use(path: Path, start: int, length: int) -> None:
    """Have a part of it in memory, as a pod that reads it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), length, start)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Has the file system take no direct I/O."""
    really = os.open

    def opening(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O here")
        return really(path, flags, *rest, **more)

    return lambda: monkeypatch.setattr(os, "open", opening)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, PIECE_BYTES, PIECE_BYTES + 1, SIZE])
def test_it_reads_what_is_there(tmp_path: Path, size: int, direct: bool, refuse: Refuse) -> None:
    path = put(tmp_path, CONTENT[:size])
    if not direct:
        refuse()
    assert read_all(path) == CONTENT[:size]


@pytest.mark.parametrize("direct", [True, False])
def test_what_was_in_memory_stays_and_nothing_else_comes(
    tmp_path: Path, direct: bool, refuse: Refuse
) -> None:
    path = put(tmp_path)
    use(path, MEBIBYTE, 2 * MEBIBYTE)
    use(path, 4 * MEBIBYTE + 3 * mmap.PAGESIZE, 5 * mmap.PAGESIZE)
    use(path, SIZE - 10, 10)
    before = pages_of(path)
    assert 0 < before.count(1) < len(before)
    if not direct:
        refuse()
    assert read_all(path) == CONTENT
    assert pages_of(path) == before


@pytest.mark.parametrize("direct", [True, False])
def test_what_a_process_has_mapped_stays(tmp_path: Path, direct: bool, refuse: Refuse) -> None:
    path = put(tmp_path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[at] for at in range(0, SIZE, mmap.PAGESIZE)) >= 0
        assert resident_bytes(file.fileno(), SIZE) == SIZE
        if not direct:
            refuse()
        read_all(path)
        assert resident_bytes(file.fileno(), SIZE) == SIZE


@pytest.mark.root
@pytest.mark.parametrize("options", ["rw", "compress-force=zlib"])
def test_btrfs_serves_what_it_has_compressed_from_the_page_cache(
    tmp_path: Path, options: str
) -> None:
    with disk(tmp_path) as place:
        run("mount", "-o", f"remount,{options}", str(place))
        content = b"weights " * MEBIBYTE
        for _ in range(_TRIES):
            path = put(place, content)
            use(path, 2 * MEBIBYTE, MEBIBYTE)
            before = pages_of(path)
            assert read_all(path) == content
            after = pages_of(path)
            assert not any(now & ~then for then, now in zip(before, after, strict=True))
            if after == before:
                break
        assert after == before


def disk(tmp_path: Path) -> AbstractContextManager[Path]:
    return loop_mounted(tmp_path / "disk", 256 * MEBIBYTE, "mkfs.btrfs", "-q")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(put(tmp_path))
    with pytest.raises(OSError, match="symbolic"):
        ColdFile(tmp_path / "link")
