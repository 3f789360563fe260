"""Seeding a cache directory: a whole copy of a bundle, or nothing, and never over what is there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.starts import seeding, seednotes
from modelcache.compilecache.starts.seeding import STAGING_NAME, seed
from modelcache.compilecache.starts.seednotes import NOTE_NAME, read_note
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.opening import root_folder
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenBundle, Cancelled, InsufficientDisk
from modelcache.transfer.cancelling import Cancel
from tests.support.archives import MOMENT
from tests.support.seeds import bundle_of, engines_files
from tests.support.trees import content, plant

FILES = {"vllm/model": b"code" * 999, "vllm/modelinfos/a.json": b"{}", "triton/k/x.so": b"\x7fELF"}


@pytest.fixture
def bundle(tmp_path: Path) -> LocalBundle:
    return bundle_of(tmp_path / "made", FILES)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ours(cache_dir: Path) -> list[str]:
    return [name for name in os.listdir(cache_dir) if name.startswith(".modelcache")]


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_directory_gets_a_copy_and_a_note(
    cache_dir: Path, bundle: LocalBundle, there: bool
) -> None:
    if there:
        plant(cache_dir / "lost+found", {})
    seeded = seed(bundle, cache_dir)
    assert engines_files(cache_dir) == FILES
    assert (seeded.how, seeded.seeded, seeded.digest) == ("unpacked", True, bundle.digest)
    assert (seeded.files, seeded.bytes) == (3, sum(map(len, FILES.values())))
    assert ours(cache_dir) == [NOTE_NAME]
    assert (cache_dir / "lost+found").exists() == there
    note = read_note(cache_dir)
    assert note is not None
    assert note.digest == bundle.digest
    assert {file.path for file in note.manifest.files} == set(FILES)


def test_the_copy_is_private(cache_dir: Path, bundle: LocalBundle) -> None:
    before = content(bundle.directory)
    seed(bundle, cache_dir)
    (cache_dir / "vllm" / "model").write_bytes(b"other")
    (cache_dir / "vllm" / "new").write_bytes(b"new")
    assert content(bundle.directory) == before


def test_what_was_seeded_before_is_kept_as_it_grew(cache_dir: Path, bundle: LocalBundle) -> None:
    seed(bundle, cache_dir)
    (cache_dir / "vllm" / "model").write_bytes(b"other")
    (cache_dir / "vllm" / "new").write_bytes(b"new")
    again = seed(bundle, cache_dir)
    assert (again.how, again.seeded, again.digest) == ("kept", True, bundle.digest)
    assert (again.files, again.why) == (3, "it was seeded with this bundle before")
    assert engines_files(cache_dir) == FILES | {"vllm/model": b"other", "vllm/new": b"new"}


def test_what_another_bundle_seeded_is_left(
    tmp_path: Path, cache_dir: Path, bundle: LocalBundle
) -> None:
    seed(bundle, cache_dir)
    other = bundle_of(tmp_path / "other", {"a": b""}, created_at=MOMENT + timedelta(1))
    left = seed(other, cache_dir)
    assert (left.how, left.seeded, left.digest) == ("left", False, bundle.digest)
    assert f"with another bundle, {bundle.digest}" in left.why
    assert engines_files(cache_dir) == FILES


def test_what_is_not_ours_is_left(cache_dir: Path, bundle: LocalBundle) -> None:
    plant(cache_dir, {"vllm/theirs": b"1", "a": b"", "b": b"", "c": b""})
    (cache_dir / "empty").mkdir()
    before = sorted(os.listdir(cache_dir))
    left = seed(bundle, cache_dir)
    assert (left.how, left.digest) == ("left", None)
    assert "is not empty (a, b, c, …)" in left.why
    assert sorted(os.listdir(cache_dir)) == before
    assert content(cache_dir)["vllm/theirs"] == b"1"


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/"), os.mkfifo])
def test_odd_things_are_something_too(
    cache_dir: Path, bundle: LocalBundle, make: Callable[[Path], None]
) -> None:
    plant(cache_dir / "vllm", {})
    make(cache_dir / "vllm" / "odd")
    assert seed(bundle, cache_dir).how == "left"
    assert os.path.lexists(cache_dir / "vllm" / "odd")


def test_directories_without_a_file_are_nothing(cache_dir: Path, bundle: LocalBundle) -> None:
    plant(cache_dir / "vllm" / "a" / "b", {})
    plant(cache_dir / "other", {})
    assert seed(bundle, cache_dir).how == "unpacked"
    assert engines_files(cache_dir) == FILES
    assert not (cache_dir / "other").exists()


def test_too_much_to_look_at_is_something(cache_dir: Path, bundle: LocalBundle) -> None:
    for number in range(50):
        plant(cache_dir / f"{number}", {})
    assert seed(bundle, cache_dir, limits=Limits(files=3)).how == "left"
    assert len(os.listdir(cache_dir)) == 50


def test_a_note_that_cannot_be_read_leaves_all_as_it_is(
    cache_dir: Path, bundle: LocalBundle
) -> None:
    seed(bundle, cache_dir)
    (cache_dir / NOTE_NAME).write_bytes(b"{}")
    left = seed(bundle, cache_dir)
    assert (left.how, left.digest) == ("left", None)
    assert "can't be read" in left.why
    assert engines_files(cache_dir) == FILES


def test_a_bundle_that_is_broken_leaves_nothing(cache_dir: Path, bundle: LocalBundle) -> None:
    data = bytearray(bundle.archive.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.archive.chmod(0o644)
    bundle.archive.write_bytes(data)
    with pytest.raises(BrokenBundle):
        seed(bundle, cache_dir)
    assert os.listdir(cache_dir) == []


def test_a_disk_that_is_too_small_is_told_before(
    cache_dir: Path, bundle: LocalBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SimpleNamespace(f_bavail=1, f_frsize=4000, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    with pytest.raises(InsufficientDisk, match="has room for 4000"):
        seed(bundle, cache_dir)
    space.f_bavail, space.f_files, space.f_favail = 1000, 5, 2
    with pytest.raises(InsufficientDisk, match="3 files"):
        seed(bundle, cache_dir)
    assert os.listdir(cache_dir) == []


def test_seeding_can_be_cancelled(cache_dir: Path, bundle: LocalBundle) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        seed(bundle, cache_dir, cancel=cancel)
    assert os.listdir(cache_dir) == []


@pytest.mark.parametrize("failing", range(1, 4))
def test_a_failure_while_it_is_moved_up_leaves_nothing(
    cache_dir: Path, bundle: LocalBundle, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real, left = os.rename, failing

    def rename(*given: Any, **named: Any) -> None:
        nonlocal left
        if str(given[1]) in ("vllm", "triton", NOTE_NAME) and not _is_staging(named["dst_dir_fd"]):
            left -= 1
            if not left:
                raise OSError(errno.ENOSPC, "full")
        real(*given, **named)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(InsufficientDisk):
        seed(bundle, cache_dir)
    assert os.listdir(cache_dir) == []


def _is_staging(fd: int) -> bool:
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == STAGING_NAME


def test_who_seeds_at_the_same_time_waits_and_finds_it_done(
    cache_dir: Path, bundle: LocalBundle
) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(seed(bundle, cache_dir).how)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["kept"] * 5 + ["unpacked"]
    assert engines_files(cache_dir) == FILES


def test_a_seeding_that_hangs_holds_up_the_others_no_longer_than_that(
    cache_dir: Path, bundle: LocalBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "PATIENCE_SECONDS", 0.0)
    seed(bundle, cache_dir)
    with root_folder(cache_dir) as root, seeding._alone(root, Cancel()):
        left = seed(bundle, cache_dir)
    assert (left.how, left.why) == (
        "left",
        f"another process has been seeding {cache_dir} for too long",
    )


@pytest.mark.root
def test_all_of_it_belongs_to_its_owner(cache_dir: Path, bundle: LocalBundle) -> None:
    seed(bundle, cache_dir, owner=Owner(12345, 54321))
    for path in ("", "vllm", "vllm/model", "triton/k", NOTE_NAME):
        status = (cache_dir / path).stat()
        assert (status.st_uid, status.st_gid) == (12345, 54321), path


@pytest.mark.root
def test_a_directory_that_was_there_stays_whose_it_is(cache_dir: Path, bundle: LocalBundle) -> None:
    cache_dir.mkdir()
    os.chmod(cache_dir, 0o777)
    seed(bundle, cache_dir, owner=Owner(12345, 54321))
    assert cache_dir.stat().st_uid == os.getuid()
    assert cache_dir.stat().st_mode & 0o777 == 0o777


def test_after_another_boot_what_lost_its_content_is_restored(
    cache_dir: Path, bundle: LocalBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(bundle, cache_dir)
    model, kernel = cache_dir / "vllm" / "model", cache_dir / "triton" / "k" / "x.so"
    for file, data in ((model, b""), (kernel, bytes(4))):
        status = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(0, status.st_mtime_ns))
    (cache_dir / "vllm" / "modelinfos" / "a.json").write_bytes(b"the engine's")
    assert "restored" not in seed(bundle, cache_dir).why
    monkeypatch.setattr(seeding, "this_boot", lambda: "another")
    monkeypatch.setattr(seednotes, "this_boot", lambda: "another")
    kept = seed(bundle, cache_dir)
    assert (kept.how, kept.digest) == ("kept", bundle.digest)
    assert "2 files that had lost their content were restored" in kept.why
    assert engines_files(cache_dir) == FILES | {"vllm/modelinfos/a.json": b"the engine's"}
    assert ours(cache_dir) == [NOTE_NAME]
    note = read_note(cache_dir)
    assert note is not None
    assert note.boot == "another", "it is looked at once for each boot"


def test_after_another_boot_nothing_is_unpacked_where_all_is_well(
    cache_dir: Path, bundle: LocalBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(bundle, cache_dir)
    monkeypatch.setattr(seeding, "this_boot", lambda: "another")
    bundle.archive.unlink()
    assert seed(bundle, cache_dir).why == "it was seeded with this bundle before"


def _half_moved(bundle: LocalBundle, cache_dir: Path) -> None:
    """As a process leaves it that is killed between two names that it moves up."""
    seed(bundle, cache_dir)
    staging = cache_dir / STAGING_NAME
    plant(staging / "tree", {})
    (cache_dir / "triton").rename(staging / "tree" / "triton")
    (cache_dir / NOTE_NAME).rename(staging / NOTE_NAME)


def test_a_half_made_seed_is_made_anew(cache_dir: Path, bundle: LocalBundle) -> None:
    _half_moved(bundle, cache_dir)
    (cache_dir / "vllm" / "modelinfos" / "a.json").unlink()
    assert seed(bundle, cache_dir).how == "unpacked"
    assert engines_files(cache_dir) == FILES
    assert ours(cache_dir) == [NOTE_NAME]


def test_a_half_made_seed_that_an_engine_wrote_to_is_left(
    cache_dir: Path, bundle: LocalBundle
) -> None:
    _half_moved(bundle, cache_dir)
    (cache_dir / "vllm" / "new").write_bytes(b"compiled")
    left = seed(bundle, cache_dir)
    assert left.how == "left"
    assert "cut short" in left.why
    assert (cache_dir / "vllm" / "new").read_bytes() == b"compiled"
    assert ours(cache_dir) == []


def test_a_half_made_seed_does_not_take_what_it_did_not_bring(
    cache_dir: Path, bundle: LocalBundle
) -> None:
    """An engine that started meanwhile made the directory that is still waiting to be moved."""
    _half_moved(bundle, cache_dir)
    plant(cache_dir / "triton", {"mine": b"compiled"})
    assert seed(bundle, cache_dir).how == "left"
    assert engines_files(cache_dir) == {"triton/mine": b"compiled"}


def test_staging_that_is_a_link_is_not_followed(
    tmp_path: Path, cache_dir: Path, bundle: LocalBundle
) -> None:
    outside = plant(tmp_path / "outside", {NOTE_NAME: b"theirs", "tree/a": b"theirs"})
    cache_dir.mkdir()
    (cache_dir / STAGING_NAME).symlink_to(outside)
    assert seed(bundle, cache_dir).how == "unpacked"
    assert content(outside) == {NOTE_NAME: b"theirs", "tree/a": b"theirs"}
