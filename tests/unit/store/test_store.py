"""Commit, find, show, evict."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import ManifestFile
from modelcache.errors import UnsafePath
from modelcache.store import Overtaken, Store
from modelcache.store.manifests import Manifests
from tests.support.store import (
    COMMIT,
    OTHER_COMMIT,
    REPOSITORY,
    check,
    described,
    digest_of,
    leftovers,
    manifest_of,
    put,
    put_blob,
    stage,
)


def test_what_is_committed_is_shown_also_by_the_next_process(store: Store) -> None:
    manifest = put(store, "m", {"w": b"weights"})
    again = Store(store.layout.root)
    assert again.manifests() == [manifest]
    assert again.current("m") == manifest
    assert again.is_shown(manifest)


def test_found_by_digest(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    found = store.find("unheard of", digest_of(b"weights"), 7)
    assert found is not None
    assert found.chunks == described("w", b"weights").chunks


def test_found_by_identity(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    found = store.find(described("w", b"weights").identity, None, 7)
    assert found is not None
    assert found.sha256 == digest_of(b"weights")


def test_not_found(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    assert store.find("unheard of", None, 7) is None
    assert store.find("unheard of", digest_of(b"other"), 5) is None
    assert store.find("unheard of", digest_of(b"weights"), 8) is None


def test_found_by_its_note_after_a_kill(store: Store) -> None:
    put_blob(store, b"weights")
    store.record("m", COMMIT, described("w", b"weights"))
    again = Store(store.layout.root)
    assert again.find(described("w", b"weights").identity, None, 7) == described("w", b"weights")


def test_what_another_process_brought_is_found(store: Store) -> None:
    assert store.find("x", None, 7) is None
    put(Store(store.layout.root), "m", {"w": b"weights"})
    assert store.find(described("w", b"weights").identity, None, 7, fresh=True) is not None


def test_a_blob_that_nothing_speaks_of_is_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_blob(store, b"weights")
    found = store.find("x", digest_of(b"weights"), 7)
    assert found is not None
    assert found.chunks == described("w", b"weights").chunks
    monkeypatch.setattr(os, "preadv", None)
    assert store.find("x", digest_of(b"weights"), 7) == found


def test_a_blob_that_nothing_speaks_of_and_that_is_wrong_goes(store: Store) -> None:
    path = store.blobs.path(put_blob(store, b"weights"))
    path.chmod(0o600)
    path.write_bytes(b"WEIGHTS")
    assert store.find("x", digest_of(b"weights"), 7) is None
    assert not path.exists()


def test_learning_what_is_new_reads_only_that(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand files, each found `fresh` while it is retried, must not read the rest again."""
    read: list[object] = []
    real = store._receipts.news

    def news() -> Iterator[ManifestFile]:
        for file in real():
            read.append(file)
            yield file

    monkeypatch.setattr(store._receipts, "news", news)
    for number in range(50):
        file = described(f"{number}", b"%d" % number)
        store.record("m", COMMIT, file)
        store.find(file.identity, None, 1, fresh=True)
    assert len(read) == 50


def test_what_is_evicted_is_forgotten(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    store.find("x", None, 7, fresh=True)
    store.evict("m")
    store.find("x", None, 7, fresh=True)
    assert store._finding._known._files == {}


def test_a_second_snapshot_takes_over_and_gives_way(store: Store) -> None:
    old = put(store, "m", {"w": b"old"})
    new = put(store, "m", {"w": b"new"}, commit=OTHER_COMMIT)
    assert store.current("m") == new
    store.evict("m", new.snapshot)
    assert store.current("m") == old
    assert (store.layout.current("m") / "w").read_bytes() == b"old"


def test_what_takes_over_is_whole(store: Store) -> None:
    old = put(store, "m", {"w": b"old"})
    put(store, "m", {"w": b"new"}, commit=OTHER_COMMIT)
    (store.layout.view("m", old.snapshot) / "w").unlink()
    store.evict("m", OTHER_COMMIT)
    assert store.current("m") is None


def test_evicted_nothing_is_left(store: Store) -> None:
    put(store, "m", {"a/w": b"old"}, repository=REPOSITORY)
    put(store, "m", {"a/w": b"new"}, repository=REPOSITORY, commit=OTHER_COMMIT)
    assert store.evict("m") == 2 * 4096
    assert leftovers(store) == []


def test_shared_content_is_freed_with_its_last_user(store: Store) -> None:
    put(store, "one", {"w": b"weights", "own": b"1"})
    put(store, "two", {"v": b"weights"})
    store.evict("one")
    assert store.blobs.has(digest_of(b"weights"), 7)
    assert not store.blobs.has(digest_of(b"1"), 1)
    check(store)
    store.evict("two")
    assert not store.blobs.has(digest_of(b"weights"), 7)


def test_what_has_a_name_outside_of_the_root_is_forgotten_too(store: Store, tmp_path: Path) -> None:
    """As what was taken over by a hard link: else it would count as the cache's for ever."""
    put(store, "m", {"w": b"weights"})
    outside = tmp_path / "outside"
    os.link(store.blobs.path(digest_of(b"weights")), outside)
    assert store.evict("m") == 0, "the disk has it still"
    assert leftovers(store) == []
    assert outside.read_bytes() == b"weights"


def test_what_another_fetch_has_found_stays(store: Store, tmp_path: Path) -> None:
    put(store, "m", {"w": b"weights"})
    os.link(store.blobs.path(digest_of(b"weights")), tmp_path / "outside")
    with store.staging() as staging:
        staging.add("w", digest_of(b"weights"))
        store.evict("m")
        store.commit(staging, manifest_of("n", {"w": b"weights"}))
    check(store)
    assert store.current("n") is not None
    store.evict("n")
    assert leftovers(store) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "-"])
def test_no_name_leads_an_eviction_elsewhere(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UnsafePath):
        store.evict(name)
    assert (tmp_path / "x").exists()


def test_an_eviction_takes_along_what_a_withdrawal_left(store: Store) -> None:
    manifest = put(store, "m", {"good": b"good", "bad": b"bad"}, repository=REPOSITORY)
    store.blobs.set_aside(digest_of(b"bad"))
    store.withdraw(manifest, store.look(manifest))
    assert store.evict("m") > 0
    assert leftovers(store) == []


def test_a_fetch_in_progress_keeps_what_it_has_taken(store: Store) -> None:
    put(store, "one", {"w": b"weights"})
    with store.staging() as staging:
        staging.add("w", digest_of(b"weights"))
        Store(store.layout.root).evict("one")
        store.commit(staging, manifest_of("two", {"w": b"weights"}))
    check(store)
    assert store.current("two") is not None


def test_a_commit_that_lacks_a_file_is_none(store: Store) -> None:
    with store.staging() as staging:
        stage(store, staging, {"w": b"weights"})
        with pytest.raises(Overtaken, match=r"^m: "):
            store.commit(staging, manifest_of("m", {"w": b"weights", "v": b"not there"}))
    assert store.manifests() == []
    assert store.current("m") is None


def test_a_commit_that_lacks_a_name_never_has_a_manifest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifests, "write", None)
    with store.staging() as staging:
        stage(store, staging, {"w": b"weights"})
        with pytest.raises(Overtaken, match="v: missing from the view"):
            store.commit(staging, manifest_of("m", {"w": b"weights", "v": b"weights"}))


def test_nothing_takes_over_that_is_about_to_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = put(store, "m", {"w": b"old"}, commit=OTHER_COMMIT)
    put(store, "m", {"w": b"new"})
    store.show(shown)
    monkeypatch.setattr(store._showing, "show", None)
    store.evict("m")
    assert store.manifests() == []


def test_a_commit_that_an_eviction_overtakes_shows_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do nothing, another process may evict between any two steps."""
    real = Manifests.write

    def overtaken(self: Manifests, manifest: Any) -> None:
        store._durable.remove_tree(store.layout.view("m", COMMIT))
        real(self, manifest)

    monkeypatch.setattr(Manifests, "write", overtaken)
    with pytest.raises(Overtaken) as caught:
        put(store, "m", {"w": b"weights"})
    assert caught.value.retryable
    assert store.manifests() == []


def test_an_eviction_that_a_commit_overtakes_leaves_nothing_broken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = put(store, "m", {"w": b"weights"})
    real = store._showing.leave_hub

    def overtaken(gone: Any) -> None:
        store._manifests.write(manifest)  # it has looked at the files just before they go
        real(gone)

    monkeypatch.setattr(store._showing, "leave_hub", overtaken)
    store.evict("m", COMMIT)
    assert store.manifests() == []


def test_a_removal_killed_between_its_steps_shows_nothing_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {"w": b"weights"}, repository=REPOSITORY)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    for step in ("remove", "current"):
        with monkeypatch.context() as patch:
            patch.setattr(Manifests, step, killed)
            with pytest.raises(KeyboardInterrupt):
                store.evict("m")
        check(Store(store.layout.root))


def test_a_manifest_with_an_unsafe_path_counts_as_not_there(store: Store) -> None:
    put(store, "m", {"wwwwwwww": b"weights"})
    path = store.layout.manifest("m", COMMIT)
    path.write_bytes(path.read_bytes().replace(b'"path": "wwwwwwww"', b'"path": "../../../w"'))
    assert Store(store.layout.root).manifests() == []


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"[]"])
def test_a_torn_manifest_counts_as_not_there(store: Store, content: bytes) -> None:
    put(store, "m", {"w": b"weights"})
    store.layout.manifest("m", COMMIT).write_bytes(content)
    assert store.manifests() == []
    put(store, "m", {"w": b"weights"})
    check(store)
    assert len(store.manifests()) == 1


def test_a_manifest_in_anothers_place_counts_as_not_there(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    store.layout.manifest("m", COMMIT).rename(store.layout.manifest("m", OTHER_COMMIT))
    assert store.manifests() == []


def test_an_empty_model_and_an_empty_file(store: Store) -> None:
    put(store, "none", {})
    put(store, "empty", {"f": b""})
    check(store)
    store.evict("none")
    store.evict("empty")
    assert leftovers(store) == []


def test_manifests_are_read_while_others_go(store: Store) -> None:
    other, stop, failures = Store(store.layout.root), threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not stop.is_set():
                other.manifests()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        put(store, "m", {"w": b"weights"})
        store.evict("m")
    stop.set()
    thread.join()
    assert failures == []
