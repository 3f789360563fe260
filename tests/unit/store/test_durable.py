"""Durable writes, and the order in which a commit makes them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import Store
from modelcache.store.durable import Durable, disk_errors
from tests.support.store import COMMIT, REPOSITORY, digest_of, manifest_of, put, put_blob


@pytest.fixture
def durable(tmp_path: Path) -> Durable:
    (tmp_path / "scratch").mkdir()
    return Durable(tmp_path / "scratch")


class Recorder:
    """The store's calls of the kernel that matter to durability, in order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.calls: list[tuple[str, str]] = []
        self._wrap(monkeypatch, "fsync", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
        for name in ("rename", "link"):
            self._wrap(monkeypatch, name, lambda _source, target: os.fspath(target))

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str, about: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*given: Any, **named: Any) -> Any:
            place = about(*given)
            result = real(*given, **named)
            self.calls.append((name, os.path.relpath(place, self.root)))
            return result

        monkeypatch.setattr(os, name, call)

    def at(self, name: str, place: str) -> int:
        """Where in the order a call came; it must have come."""
        return self.calls.index((name, place))

    def after(self, position: int, name: str, place: str) -> int:
        """Where it came the first time after `position`."""
        return self.calls.index((name, place), position + 1)


@pytest.fixture
def recorder(store: Store, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(store.layout.root, monkeypatch)


def test_a_blob_has_its_name_only_after_its_content_is_durable(
    store: Store, recorder: Recorder
) -> None:
    digest = put_blob(store, b"weights")
    synced = recorder.at("fsync", f"ingest/partial/sha256-{digest}/data")
    assert synced < recorder.at("link", f"blobs/sha256/{digest[:2]}/{digest}")


def test_the_order_of_a_commit(store: Store, recorder: Recorder) -> None:
    put(store, "m", {"a/w": b"weights"}, repository=REPOSITORY)
    digest = digest_of(b"weights")
    hub = "hub/m/models--org--tiny"
    blob = recorder.at("link", f"blobs/sha256/{digest[:2]}/{digest}")
    blob_durable = recorder.after(blob, "fsync", f"blobs/sha256/{digest[:2]}")
    view = recorder.at("rename", f"models/m/{COMMIT}")
    view_durable = recorder.after(view, "fsync", "models/m")
    hub_view = recorder.at("rename", f"{hub}/snapshots/{COMMIT}")
    hub_folder = max(
        index
        for index, call in enumerate(recorder.calls)
        if call[0] == "fsync" and call[1].endswith("/hub/a")
    )
    hub_durable = recorder.after(hub_view, "fsync", f"{hub}/snapshots")
    listing_durable = recorder.at("fsync", f"{hub}/trees")
    manifest = recorder.at("rename", f"manifests/m/{COMMIT}.json")
    manifest_durable = recorder.after(manifest, "fsync", "manifests/m")
    current = recorder.at("rename", "models/m/current")
    current_durable = recorder.after(current, "fsync", "models/m")
    ref = recorder.at("rename", f"{hub}/refs/main")
    steps = [
        blob,
        blob_durable,
        view,
        view_durable,
        hub_folder,
        hub_view,
        hub_durable,
        listing_durable,
    ]
    steps += [manifest, manifest_durable, current, current_durable, ref]
    assert steps == sorted(steps)


def test_a_views_directories_are_durable_before_it_has_its_name(
    store: Store, recorder: Recorder
) -> None:
    put(store, "m", {"a/b/w": b"weights"})
    view = recorder.at("rename", f"models/m/{COMMIT}")
    before = [place for name, place in recorder.calls[:view] if name == "fsync"]
    staged = [place for place in before if place.startswith("ingest/staging/")]
    assert {place.split("/", 3)[3] for place in staged} == {"plain", "plain/a", "plain/a/b"}


def test_what_is_put_right_in_place_is_durable_before_the_manifest(
    store: Store, recorder: Recorder
) -> None:
    put(store, "m", {"a/w": b"weights"})
    recorder.calls.clear()
    put(store, "m", {"a/w": b"weights"})
    manifest = recorder.at("rename", f"manifests/m/{COMMIT}.json")
    assert recorder.at("fsync", f"models/m/{COMMIT}/a") < manifest
    assert recorder.at("fsync", f"models/m/{COMMIT}") < manifest


def test_the_content_of_a_manifest_is_durable_before_its_name(
    store: Store, recorder: Recorder
) -> None:
    put(store, "m", {"w": b"weights"})
    manifest = recorder.at("rename", f"manifests/m/{COMMIT}.json")
    assert recorder.calls[manifest - 1][0] == "fsync"
    assert recorder.calls[manifest - 1][1].startswith("ingest/scratch/")


def test_many_small_files_cost_one_fsync_each_and_a_bounded_rest(
    store: Store, recorder: Recorder
) -> None:
    files = {f"f{number}": b"%d" % number for number in range(600)}
    for content in files.values():
        put_blob(store, content)
    syncs = [place for name, place in recorder.calls if name == "fsync"]
    assert len([place for place in syncs if place.endswith("data")]) == 600
    recorder.calls.clear()
    put(store, "m", files)
    assert len([1 for name, _ in recorder.calls if name == "fsync"]) < 256 + 32


def test_the_manifest_goes_before_what_it_needs(
    store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {"w": b"weights"})
    gone: list[str] = []
    real = os.unlink

    def unlink(path: Path, **given: Any) -> None:
        gone.append(Path(path).name)
        real(path, **given)

    monkeypatch.setattr(os, "unlink", unlink)
    recorder.calls.clear()
    store.evict("m")
    assert gone[:2] == ["current", f"{COMMIT}.json"]
    assert gone.index(f"{COMMIT}.json") < gone.index("w")


def test_a_file_is_written_whole_with_its_mode(durable: Durable, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.write_file(tmp_path / "f", b"content", mode=0o444)
    finally:
        os.umask(before)
    assert (tmp_path / "f").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o444


def test_a_write_that_fails_leaves_nothing(
    durable: Durable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "f").write_text("before")
    for call in ("write", "fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(OSError, match="full"):
                durable.write_file(tmp_path / "f", b"after")
    assert (tmp_path / "f").read_text() == "before"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_directory_left_with_the_umasks_mode_is_put_right(
    durable: Durable, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    durable.make_directory(tmp_path / "d")
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755


def test_a_symlink_is_swapped(durable: Durable, tmp_path: Path) -> None:
    durable.symlink("one", tmp_path / "link")
    durable.symlink("two", tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "two"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_directory_takes_anothers_place(durable: Durable, tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    durable.put_directory(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "old") == ["new"]
    assert os.listdir(tmp_path / "new") == ["old"]


def test_a_tree_is_removed_where_there_is_no_room_to_rename_it(
    durable: Durable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "d" / "e").mkdir(parents=True)
    monkeypatch.setattr(os, "rename", full)
    durable.remove_tree(tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_an_error_of_its_own(number: int) -> None:
    with pytest.raises(InsufficientDisk, match="7 bytes"), disk_errors(7):
        raise OSError(number, "full")


def test_another_failure_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="bad"), disk_errors(7):
        raise OSError(errno.EIO, "bad")


def test_a_commit_on_a_full_disk_shows_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Durable.write_file

    def full(self: Durable, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        if "manifests" in path.parts:
            raise OSError(errno.ENOSPC, "full")
        real(self, path, content, mode=mode)

    monkeypatch.setattr(Durable, "write_file", full)
    with pytest.raises(InsufficientDisk):
        put(store, "m", {"w": b"weights"}, repository=REPOSITORY)
    assert store.manifests() == []
    assert store.current("m") is None
    assert not store.is_shown(manifest_of("m", {"w": b"weights"}, repository=REPOSITORY))
