"""The plain view: where files lie, and where none may lie."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelcache.errors import UnsafePath
from modelcache.store import Store
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.paths import relative_path
from tests.support.store import COMMIT, digest_of, manifest_of, put, put_blob, stage


@pytest.mark.parametrize("path", ["w", "a/b/c/d/e/f/w", "模型/权重.bin", "with space", "...", "-x"])
def test_a_file_lies_under_its_own_path(store: Store, path: str) -> None:
    put(store, "m", {path: b"weights"})
    assert (store.layout.current("m") / path).read_bytes() == b"weights"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b", "a\\..\\b"]
)
def test_no_file_lies_outside(store: Store, path: str) -> None:
    with pytest.raises(UnsafePath):
        relative_path(path)
    digest = put_blob(store, b"weights")
    with store.staging() as staging, pytest.raises(UnsafePath):
        staging.add(path, digest)


@pytest.mark.parametrize("digest", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_no_digest_names_another_place(store: Store, digest: str) -> None:
    with pytest.raises(UnsafePath):
        store.blobs.path(digest)


def test_a_view_is_links(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    blob = store.blobs.path(digest_of(b"weights"))
    assert blob.samefile(store.layout.view("m", COMMIT) / "w")
    assert blob.stat().st_nlink == 2


def test_all_may_read_a_view_whatever_the_umask_is(store: Store) -> None:
    before = os.umask(0o077)
    try:
        put(store, "m", {"a/b/w": b"weights"}, repository="org/tiny", refs=("x/y",))
    finally:
        os.umask(before)
    for top in (store.layout.model("m"), store.layout.hub("m")):
        for folder, _, names in os.walk(top):
            assert Path(folder).stat().st_mode & 0o777 == 0o755, folder
            for name in names:
                assert (Path(folder) / name).stat().st_mode & 0o444 == 0o444, name


def test_a_missing_blob_is_told(store: Store) -> None:
    with store.staging() as staging, pytest.raises(FileNotFoundError):
        staging.add("w", "0" * 64)


def test_what_is_not_committed_is_gone(store: Store) -> None:
    with store.staging() as staging:
        stage(store, staging, {"w": b"weights"})
    assert os.listdir(store.layout.staging) == []
    assert store.blobs.path(digest_of(b"weights")).stat().st_nlink == 1


def test_a_view_that_is_there_is_put_right_in_place(store: Store) -> None:
    put(store, "m", {"w": b"weights", "v": b"more"})
    view = store.layout.view("m", COMMIT)
    before = view.stat().st_ino
    (view / "v").unlink()
    (view / "w").unlink()
    (view / "w").write_bytes(b"WEIGHTS")
    put(store, "m", {"w": b"weights", "v": b"more"})
    assert view.stat().st_ino == before  # a pod may have mounted it
    assert (view / "w").read_bytes() == b"weights"
    assert (view / "v").read_bytes() == b"more"


def test_two_that_publish_the_same_at_once(store: Store) -> None:
    files = {"w": b"weights"}
    with store.staging() as one, store.staging() as other:
        stage(store, one, files)
        stage(store, other, files)
        store.commit(one, manifest_of("m", files))
        store.commit(other, manifest_of("m", files))
    assert store.look(store.manifests()[0]) == []


def test_one_that_is_overtaken_and_then_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes the same snapshot a moment before, and it is evicted at once."""
    target, real = store.layout.view("m", COMMIT), os.rename

    def rename(source: Path, place: Path) -> None:
        if place == target:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(source, place)

    monkeypatch.setattr(os, "rename", rename)
    put(store, "m", {"a/w": b"weights"})
    assert (target / "a" / "w").read_bytes() == b"weights"


def test_a_file_with_no_links_left_is_copied(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: Durable, source: Path, target: Path) -> bool:
        raise OSError(31, "Too many links")

    digest = put_blob(store, b"weights")
    synced: list[int] = []
    monkeypatch.setattr(Durable, "link", no_more)
    monkeypatch.setattr(Durable, "sync", lambda _, fd: synced.append(os.fstat(fd).st_size))
    with store.staging() as staging:
        staging.add("w", digest)
        copy = staging.plain / "w"
        assert copy.read_bytes() == b"weights"
        assert copy.stat().st_mode & 0o777 == 0o444
        assert not copy.samefile(store.blobs.path(digest))
    assert synced == [7]


def test_a_copy_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    digest = put_blob(store, b"weights")
    with pytest.raises(FileNotFoundError):
        Blobs(store.layout, Durable(store.layout.scratch))._copy(
            store.blobs.path(digest), tmp_path / "gone" / "w"
        )
    assert os.listdir(store.layout.scratch) == []


def test_a_view_being_built_is_never_without_its_owner(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(target).parent == store.layout.staging:
            assert (Path(source) / "lock").exists()
        real(source, target)
        if Path(target).parent == store.layout.staging:
            Store(store.layout.root).sweep(older_than=3600)

    monkeypatch.setattr(os, "rename", rename)
    put(store, "m", {"w": b"weights"})
