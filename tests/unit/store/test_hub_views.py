"""The hub view, as huggingface_hub itself reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub._tree_cache import read_tree_cache

from modelcache.api import HubFile
from modelcache.store import Store
from modelcache.store.durable import Durable
from tests.support.store import (
    COMMIT,
    OTHER_COMMIT,
    REPOSITORY,
    check_hub,
    digest_of,
    manifest_of,
    put,
    put_blob,
)

FILES = {"config.json": b"{}", "a/b/w": b"weights"}
FOLDER = "models--org--tiny"


def commit(store: Store, files: dict[str, bytes], **given: str) -> None:
    put(store, "m", files, repository=given.pop("repository", REPOSITORY), **given)  # type: ignore[arg-type]


def folder(store: Store) -> Path:
    return store.layout.hub("m") / FOLDER


def downloaded(store: Store, revision: str = "main") -> Path:
    """What an offline client gets."""
    return Path(
        snapshot_download(
            REPOSITORY, revision=revision, cache_dir=store.layout.hub("m"), local_files_only=True
        )
    )


def hub_blobs(store: Store) -> set[str]:
    return set(os.listdir(folder(store) / "blobs"))


def test_an_offline_client_finds_every_file(store: Store) -> None:
    commit(store, FILES)
    found = downloaded(store)
    assert {path: (found / path).read_bytes() for path in FILES} == FILES


def test_a_client_finds_nothing_to_warn_of(store: Store) -> None:
    commit(store, FILES)
    scan = scan_cache_dir(store.layout.hub("m"))
    assert scan.warnings == []
    assert [revision.commit_hash for repo in scan.repos for revision in repo.revisions] == [COMMIT]


def test_a_ref_is_the_commit_and_nothing_more(store: Store) -> None:
    put(store, "m", FILES, repository=REPOSITORY, refs=("main", "refs/pr/1"))
    assert (folder(store) / "refs" / "main").read_bytes() == COMMIT.encode()
    assert (folder(store) / "refs" / "refs" / "pr" / "1").read_bytes() == COMMIT.encode()


def test_the_listing_is_one_that_the_client_reads(store: Store) -> None:
    commit(store, FILES)
    path = folder(store) / "trees" / f"{COMMIT}.json"
    assert path.stat().st_mode & 0o777 == 0o444
    listing = read_tree_cache(str(folder(store)), COMMIT)
    assert listing is not None
    assert {name: entry.size for name, entry in listing.items()} == {"config.json": 2, "a/b/w": 7}
    assert json.loads(path.read_bytes())["modelcache_snapshot"] == COMMIT


def test_the_listing_says_what_else_the_commit_has(store: Store) -> None:
    """Under a key of ours: for huggingface_hub the view is whole by what it lists."""
    manifest = manifest_of("m", FILES, repository=REPOSITORY)
    assert manifest.hub is not None
    others = (
        HubFile(path="x.bin", size=1, blob="c" * 40),
        HubFile(path="y", size=2, blob="d" * 64),
    )
    hub = manifest.hub.model_copy(update={"left_out": others})
    for content in FILES.values():
        put_blob(store, content)
    with store.staging() as staging:
        for file in manifest.files:
            staging.add(file.path, file.sha256)
        store.commit(staging, manifest.model_copy(update={"hub": hub}))
    document = json.loads((folder(store) / "trees" / f"{COMMIT}.json").read_bytes())
    assert set(document["files"]) == set(FILES)
    assert document["modelcache_left_out"] == {
        "x.bin": {"size": 1, "blob_id": "c" * 40},
        "y": {"size": 2, "blob_id": "d" * 64, "lfs_sha256": "d" * 64, "lfs_size": 2},
    }
    assert {path: (downloaded(store) / path).read_bytes() for path in FILES} == FILES
    (kept,) = Store(store.layout.root).manifests()
    assert kept.hub == hub


def test_a_missing_file_does_not_look_whole(store: Store) -> None:
    commit(store, FILES)
    (folder(store) / "snapshots" / COMMIT / "config.json").unlink()
    with pytest.raises(Exception, match="config"):
        downloaded(store)


def test_content_takes_no_disk_twice(store: Store) -> None:
    commit(store, FILES)
    blob = store.blobs.path(digest_of(b"weights"))
    assert blob.samefile(folder(store) / "blobs" / digest_of(b"weights"))


def test_another_selection_of_a_commit_takes_its_place(store: Store) -> None:
    commit(store, {"one": b"1", "both": b"b"}, selection="one")
    commit(store, {"two": b"2", "both": b"b"}, selection="two")
    assert sorted(os.listdir(downloaded(store))) == ["both", "two"]
    one, two = store.snapshots("m")
    assert not store.is_shown(one)
    assert store.is_shown(two)
    assert store.look(one) == store.look(two) == []


def test_when_it_is_evicted_the_other_selection_has_its_place_again(store: Store) -> None:
    commit(store, {"one": b"1", "both": b"b"}, selection="one")
    commit(store, {"two": b"2", "both": b"b"}, selection="two")
    one, two = store.snapshots("m")
    store.evict("m", two.snapshot)
    assert sorted(os.listdir(downloaded(store))) == ["both", "one"]
    assert hub_blobs(store) == {digest_of(b"1"), digest_of(b"b")}
    assert store.is_shown(one)
    check_hub(store.layout.hub("m"), one)
    assert not store.blobs.has(digest_of(b"2"), 1)


def test_evicting_the_selection_of_before_frees_what_only_it_had(store: Store) -> None:
    commit(store, {"one": b"1", "both": b"b"}, selection="one")
    commit(store, {"two": b"2", "both": b"b"}, selection="two")
    one, two = store.snapshots("m")
    assert store.evict("m", one.snapshot) > 0
    assert hub_blobs(store) == {digest_of(b"2"), digest_of(b"b")}
    assert not store.blobs.has(digest_of(b"1"), 1)
    assert store.is_shown(two)


def test_other_refs_do_not_make_another_commit(store: Store) -> None:
    put(store, "m", {"one": b"1"}, repository=REPOSITORY, selection="one", refs=("v1",))
    put(store, "m", {"two": b"2"}, repository=REPOSITORY, selection="two", refs=("main",))
    store.evict("m", store.snapshots("m")[0].snapshot)
    assert (downloaded(store) / "two").read_bytes() == b"2"


def test_an_older_commit_takes_over_with_its_branch(store: Store) -> None:
    commit(store, {"w": b"old"})
    commit(store, {"w": b"new"}, commit=OTHER_COMMIT)
    assert (downloaded(store) / "w").read_bytes() == b"new"
    store.evict("m", OTHER_COMMIT)
    assert (downloaded(store) / "w").read_bytes() == b"old"
    assert scan_cache_dir(store.layout.hub("m")).warnings == []


def test_no_branch_is_left_that_leads_nowhere(store: Store) -> None:
    put(store, "m", {"w": b"1"}, repository=REPOSITORY, refs=("v1",))
    put(store, "m", {"w": b"1"}, repository=REPOSITORY, refs=("main",))  # the same, asked otherwise
    put(store, "m", {"w": b"2"}, repository=REPOSITORY, commit=OTHER_COMMIT)
    store.evict("m", COMMIT)
    assert os.listdir(folder(store) / "refs") == ["main"]
    assert scan_cache_dir(store.layout.hub("m")).warnings == []


def test_two_repositories_of_one_model_over_time(store: Store) -> None:
    commit(store, {"w": b"of a"}, repository="a/m")
    commit(store, {"w": b"of b"}, repository="b/m", commit=OTHER_COMMIT)
    cache = store.layout.hub("m")
    assert sorted(os.listdir(cache)) == ["models--a--m", "models--b--m"]
    store.evict("m", COMMIT)
    assert os.listdir(cache) == ["models--b--m"]
    assert not store.blobs.has(digest_of(b"of a"), 4)
    assert scan_cache_dir(cache).warnings == []


def test_nothing_is_left_of_an_evicted_model(store: Store) -> None:
    commit(store, FILES)
    store.evict("m")
    assert os.listdir(store.layout.root / "hub") == []


def test_a_healed_file_takes_its_place_in_one_step(store: Store) -> None:
    commit(store, FILES)
    name = digest_of(b"weights")
    store.blobs.set_aside(name)
    put_blob(store, b"weights")
    commit(store, FILES)
    assert store.blobs.path(name).samefile(folder(store) / "blobs" / name)


def test_a_hub_view_that_somebody_broke_is_damage(store: Store) -> None:
    commit(store, FILES)
    (folder(store) / "blobs" / digest_of(b"weights")).unlink()
    (damage,) = store.look(store.manifests()[0])
    assert (damage.path, damage.blob) == ("a/b/w", False)


def test_a_hub_view_that_is_gone_is_built_again(store: Store) -> None:
    commit(store, FILES)
    (manifest,) = store.manifests()
    store._durable.remove_tree(store.layout.hub("m"))
    assert not store.is_shown(manifest)
    store.show(manifest)
    assert store.is_shown(manifest)
    check_hub(store.layout.hub("m"), manifest)


def test_a_kill_between_its_steps_is_put_right(store: Store) -> None:
    """The other selection has the place already, but never got its manifest."""
    commit(store, {"one": b"1"}, selection="one")
    with store.staging() as staging:
        from modelcache.store.hubviews import build_hub_view

        put_blob(store, b"2")
        other = manifest_of("m", {"two": b"2"}, repository=REPOSITORY, selection="two")
        build_hub_view(store.layout, store.blobs, store._durable, staging, other)
    (one,) = store.manifests()
    assert not store.is_shown(one)
    assert store.look(one) == []
    store.show(one)
    assert os.listdir(downloaded(store)) == ["one"]


def test_a_selection_that_is_not_current_inherits_the_place_too(store: Store) -> None:
    commit(store, {"one": b"1"}, selection="one")
    commit(store, {"two": b"2"}, selection="two")
    commit(store, {"w": b"w"}, commit=OTHER_COMMIT)
    store.evict("m", store.snapshots("m")[1].snapshot)
    assert os.listdir(folder(store) / "snapshots" / COMMIT) == ["one"]
    assert (folder(store) / "snapshots" / COMMIT / "one").read_bytes() == b"1"


def test_a_repository_keeps_no_blob_for_another(store: Store) -> None:
    commit(store, {"w": b"w", "shared": b"s"}, commit=COMMIT)
    commit(store, {"w": b"w"}, commit=OTHER_COMMIT)
    commit(store, {"shared": b"s"}, repository="b/m", commit="c" * 40)
    store.evict("m", COMMIT)
    assert hub_blobs(store) == {digest_of(b"w")}


def test_no_selection_is_held_against_anothers_list(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[bool] = []
    real = Durable.put_directory

    def put_directory(self: Durable, source: Path, target: Path) -> None:
        listed.append((folder(store) / "trees" / f"{COMMIT}.json").exists())
        real(self, source, target)

    commit(store, {"one": b"1"}, selection="one")
    monkeypatch.setattr(Durable, "put_directory", put_directory)
    commit(store, {"two": b"2"}, selection="two")
    commit(store, {"two": b"2"}, selection="two")
    assert listed == [False, True]
