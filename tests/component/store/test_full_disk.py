"""A disk that is full, or becomes it: a plain error, and nothing half shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcache.errors import InsufficientDisk, StoreDamaged
from modelcache.store import KeepFree, Store
from tests.support.mounts import tmpfs
from tests.support.store import (
    COMMIT,
    REPOSITORY,
    check,
    digest_of,
    leftovers,
    manifest_of,
    put,
    put_blob,
)

pytestmark = pytest.mark.root
MEBIBYTE = 1 << 20


def free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


def fill(root: Path, leave: int) -> Path:
    """Let somebody else take the disk but for so many bytes."""
    path = root / "of-somebody-else"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(root) - leave)
    return path


def fill_to_the_brim(root: Path) -> Path:
    path = fill(root, MEBIBYTE)
    with path.open("ab", buffering=0) as file:
        for size in (64 * 1024, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def test_what_does_not_fit_is_refused_before_a_byte(disk: Path) -> None:
    store = Store(disk)
    before = free(disk)
    with (
        pytest.raises(InsufficientDisk),
        store.space.reserve(before + MEBIBYTE, files=1, what="m"),
    ):
        pass
    assert free(disk) > before - MEBIBYTE // 8


def test_what_is_kept_free_is_not_given(disk: Path) -> None:
    store = Store(disk, keep_free=KeepFree(bytes=free(disk) - MEBIBYTE))
    with pytest.raises(InsufficientDisk), store.space.reserve(2 * MEBIBYTE, files=1, what="m"):
        pass


def test_a_file_that_no_longer_fits_gives_back_what_it_took(disk: Path) -> None:
    store = Store(disk)
    fill(disk, 4 * MEBIBYTE)
    partial = store.ingest.claim("sha256-big", 8 * MEBIBYTE)
    before = free(disk)
    with pytest.raises(InsufficientDisk):
        partial.allocate()
    partial.close()
    assert free(disk) > before - MEBIBYTE


def test_a_disk_that_fills_up_in_mid_write(disk: Path) -> None:
    store = Store(disk)
    partial = store.ingest.claim("sha256-big", 8 * MEBIBYTE)
    fill_to_the_brim(disk)
    with pytest.raises(InsufficientDisk):
        partial.write(memoryview(bytes(8 * MEBIBYTE)), 0)
    partial.discard()


def test_a_disk_that_is_full_when_it_comes_to_the_commit(disk: Path) -> None:
    """Many names in a new directory need room of their own."""
    store = Store(disk)
    put(store, "before", {"w": b"weights"})
    files = {f"{number:0200d}": b"same" for number in range(2000)}
    put_blob(store, b"same")
    filler = fill_to_the_brim(disk)
    try:
        put(store, "m", files, repository=REPOSITORY)
    except InsufficientDisk:
        assert store.current("m") is None
        assert [manifest.model for manifest in store.manifests()] == ["before"]
    check(store)
    filler.unlink()
    put(store, "m", files, repository=REPOSITORY)
    check(store)
    store.evict("m")
    store.evict("before")
    store.sweep(older_than=0)
    assert leftovers(store) == []


def test_a_full_disk_can_be_emptied(disk: Path) -> None:
    store = Store(disk)
    put(store, "m", {"w": bytes(MEBIBYTE)}, repository=REPOSITORY)
    fill_to_the_brim(disk)
    assert store.evict("m") >= MEBIBYTE
    assert free(disk) >= MEBIBYTE // 2


def test_a_full_disk_still_opens_to_be_emptied(disk: Path) -> None:
    put(Store(disk), "m", {"w": bytes(MEBIBYTE)}, repository=REPOSITORY)
    fill_to_the_brim(disk)
    store = Store(disk)
    assert store.current("m") is not None
    assert store.evict("m") >= MEBIBYTE


def test_no_inodes_left_is_told_before_a_byte(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 16 * MEBIBYTE, inodes=200) as disk:
        store = Store(disk)
        with (
            pytest.raises(InsufficientDisk, match="inodes"),
            store.space.reserve(1000, files=150, what="m"),
        ):
            pass


def test_inodes_that_run_out_on_the_way(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 16 * MEBIBYTE, inodes=60) as disk:
        store = Store(disk)
        files = {f"{number}/w": b"%d" % number for number in range(60)}
        with pytest.raises(InsufficientDisk):
            put(store, "m", files, repository=REPOSITORY)
        assert store.manifests() == []
        assert store.current("m") is None
        store.evict("m")
        store.sweep(older_than=0)
        put(store, "m", {"w": b"weights"}, repository=REPOSITORY)
        check(store)


def test_a_root_over_two_file_systems_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "root")
    for name in ("blobs/sha256", "models", "hub"):
        with (
            tmpfs(tmp_path / "root" / name, MEBIBYTE),
            pytest.raises(StoreDamaged, match="several file systems"),
        ):
            Store(tmp_path / "root")


def test_more_links_than_the_file_system_gives(disk: Path) -> None:
    """ext4 gives a file 65,000 links; the others more than anybody asks for."""
    store = Store(disk)
    content = b"everywhere"
    blob = store.blobs.path(put_blob(store, content))
    (disk / "links").mkdir()
    try:
        for number in range(65_000):
            os.link(blob, disk / "links" / str(number))
    except OSError:
        pass
    manifest = put(store, "m", {"w": content}, repository=REPOSITORY)
    check(store)
    assert manifest == manifest_of("m", {"w": content}, repository=REPOSITORY).model_copy(
        update={"created_at": manifest.created_at}
    )
    assert (store.layout.view("m", COMMIT) / "w").read_bytes() == content
    store.evict("m")
    assert store.blobs.has(digest_of(content), len(content))
