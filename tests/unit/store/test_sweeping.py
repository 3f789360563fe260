"""What crashes leave goes, in time; what somebody needs stays."""

from __future__ import annotations

import os

import pytest

from modelcache.store import Store
from modelcache.store.hubviews import build_hub_view
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


def test_nothing_of_a_shown_model_is_swept(store: Store) -> None:
    manifest = put(store, "m", {"a/w": b"weights"}, repository=REPOSITORY)
    store.sweep(older_than=0)
    assert store.is_shown(manifest)
    check(store)


def test_what_is_young_stays(store: Store) -> None:
    put_blob(store, b"weights")
    (store.layout.scratch / "x").write_text("")
    store.sweep(older_than=3600)
    assert store.blobs.has(digest_of(b"weights"), 7)
    assert (store.layout.scratch / "x").exists()


def test_a_blob_in_no_view_goes(store: Store) -> None:
    put_blob(store, b"weights")
    store.sweep(older_than=0)
    assert leftovers(store) == []


def test_a_blob_that_a_young_receipt_names_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_blob(store, b"weights")
    store.record("m", COMMIT, described("w", b"weights"))
    monkeypatch.setattr(store._receipts, "sweep", lambda older_than: None)
    store.sweep(older_than=0)
    assert store.blobs.has(digest_of(b"weights"), 7)


def test_a_blob_of_a_view_being_built_stays(store: Store) -> None:
    with store.staging() as staging:
        stage(store, staging, {"w": b"weights"})
        Store(store.layout.root).sweep(older_than=0)
        store.commit(staging, manifest_of("m", {"w": b"weights"}))
    check(store)
    assert len(store.manifests()) == 1


def test_a_staged_view_of_the_dead_goes_at_once(store: Store) -> None:
    (store.layout.staging / "dead" / "plain").mkdir(parents=True)
    store.sweep()
    assert os.listdir(store.layout.staging) == []


def test_scratch_goes(store: Store) -> None:
    (store.layout.scratch / "x.trash" / "y").mkdir(parents=True)
    (store.layout.scratch / "z").write_text("")
    (store.layout.scratch / "l").symlink_to("/nowhere")
    store.sweep(older_than=0)
    assert os.listdir(store.layout.scratch) == []


def test_a_view_published_without_a_manifest_goes(store: Store) -> None:
    manifest = manifest_of("m", {"w": b"weights"}, repository=REPOSITORY)
    with store.staging() as staging:
        stage(store, staging, {"w": b"weights"})
        staging.publish(store.layout.view("m", COMMIT))
        build_hub_view(store.layout, store.blobs, store._durable, staging, manifest)
    store.sweep(older_than=3600)
    assert (store.layout.view("m", COMMIT) / "w").exists()
    store.sweep(older_than=0)
    assert leftovers(store) == []


def test_current_that_leads_to_no_manifest_goes(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    store.layout.manifest("m", COMMIT).unlink()
    store.sweep()
    assert not store.layout.current("m").is_symlink()


def test_a_hub_snapshot_without_a_manifest_goes_and_the_others_stay(store: Store) -> None:
    keep = put(store, "m", {"w": b"keep"}, repository=REPOSITORY)
    put(store, "m", {"w": b"gone"}, repository=REPOSITORY, commit=OTHER_COMMIT)
    store.layout.manifest("m", OTHER_COMMIT).unlink()
    store.sweep(older_than=0)
    store.show(keep)
    check(store)
    folder = store.layout.hub("m") / "models--org--tiny"
    assert os.listdir(folder / "snapshots") == [COMMIT]
    assert os.listdir(folder / "trees") == [f"{COMMIT}.json"]
    assert os.listdir(folder / "blobs") == [digest_of(b"keep")]
    assert not store.blobs.has(digest_of(b"gone"), 4)


def test_what_a_manifest_of_another_version_has_stays(store: Store) -> None:
    """After a downgrade nothing is thrown away that the newer version will want again."""
    put(store, "m", {"w": b"weights"}, repository=REPOSITORY)
    path = store.layout.manifest("m", COMMIT)
    path.write_bytes(path.read_bytes().replace(b"v1alpha1", b"v2"))
    store.sweep(older_than=0)
    assert (store.layout.view("m", COMMIT) / "w").exists()
    assert (store.layout.hub("m") / "models--org--tiny" / "snapshots" / COMMIT / "w").exists()


def test_a_blob_that_gets_a_link_while_it_is_removed_keeps_its_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put_blob(store, b"weights")
    path, real = store.blobs.path(digest), os.rename

    def linked_just_before(source: str, target: str) -> None:
        os.link(path, store.layout.root / "taken")
        real(source, target)

    monkeypatch.setattr(os, "rename", linked_just_before)
    assert store.blobs.remove_unused([digest]) == 0
    assert path.exists()


def test_what_is_no_blob_is_nobodys_to_sweep(store: Store) -> None:
    path = store.blobs.path(put_blob(store, b"weights")).with_name(".nfs0001")
    path.write_text("")
    store.sweep(older_than=0)
    assert path.exists()
    assert not store.blobs.has(digest_of(b"weights"), 7)
