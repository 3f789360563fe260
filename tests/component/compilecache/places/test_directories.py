"""A directory as a place: renames, links, rights, and publishers that die."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.protocol import LEFTOVER_SECONDS
from modelcache.compilecache.places.staging import STAGING
from modelcache.errors import AuthFailed, BrokenBundle, ModelCacheError, NotFound, UnsafePath
from modelcache.store.durable import Durable
from tests.support.bundles import a_bundle, a_key, noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.fixture
def place(folder: Path) -> DirectoryPlace:
    return opened(folder)


def opened(folder: Path, within: tuple[Path, ...] | None = None) -> DirectoryPlace:
    return DirectoryPlace(
        parse_uri(folder.as_uri()), within=within, forbidden=folder.parent / "cache"
    )


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_bundle_is_two_files_that_anybody_can_read(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        bundle = a_bundle(tmp_path / "b", b"x" * 5000)
        assert place.publish(bundle)
    finally:
        os.umask(before)
    (placed,) = place.generations(bundle.statement.key.digest)
    target = folder / placed.folder
    assert everything(target) == ["archive.tar.zst", "bundle.json"]
    assert [path.stat().st_mode & 0o777 for path in target.iterdir()] == [0o644, 0o644]
    assert [target.parent.stat().st_mode & 0o777, target.stat().st_mode & 0o777] == [0o755] * 2
    assert list((folder / STAGING).iterdir()) == []


def test_a_place_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    place = opened(tmp_path / "mount" / "bundles")
    with pytest.raises(NotFound, match="mount it, or make the directory"):
        place.publish(a_bundle(tmp_path / "b"))
    with pytest.raises(NotFound):
        place.keys()
    assert not (tmp_path / "mount").exists()


def test_only_below_what_is_permitted_and_never_in_the_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(UnsafePath, match="not below a --file-root"):
        opened(folder, within=(tmp_path / "other",)).keys()
    with pytest.raises(UnsafePath, match="the cache itself"):
        DirectoryPlace(
            parse_uri((tmp_path / "cache").as_uri()), within=None, forbidden=tmp_path / "cache"
        ).publish(a_bundle(tmp_path / "b"))
    (folder / "out").symlink_to("/etc")
    with pytest.raises(UnsafePath, match="leads out"):
        opened(folder / "out", within=(folder,)).keys()
    assert opened(folder, within=(tmp_path,)).keys() == ()


@pytest.mark.parametrize("name", ["bundle.json", "archive.tar.zst"])
def test_a_link_in_a_place_is_not_followed(
    place: DirectoryPlace, folder: Path, tmp_path: Path, name: str
) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    path = folder / placed.folder / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    calls: dict[str, Callable[[], object]] = {
        "bundle.json": lambda: place.envelope(placed),
        "archive.tar.zst": lambda: place.locate(placed, bundle.statement.archive),
    }
    with pytest.raises(UnsafePath, match="no regular file"):
        calls[name]()


def test_a_folder_that_is_a_link_is_no_bundle(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    (folder / placed.key).rename(tmp_path / "elsewhere")
    (folder / placed.key).symlink_to(tmp_path / "elsewhere")
    assert place.keys() == ()
    with pytest.raises(UnsafePath, match="outside"):
        place.envelope(placed)


def test_a_link_for_the_staging_has_nothing_removed_and_nothing_written(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    """Who shares the directory may not have another's files removed by the agent's hand."""
    victim = tmp_path / "cache" / "models" / "old"
    victim.mkdir(parents=True)
    (victim / "weights").write_bytes(b"w")
    for path in (victim / "weights", victim):
        os.utime(path, (1e9, 1e9))
    (folder / STAGING).symlink_to(victim.parent)
    with pytest.raises(UnsafePath, match="is a link"):
        place.publish(a_bundle(tmp_path / "b"))
    assert everything(tmp_path / "cache") == ["models", "models/old", "models/old/weights"]
    # Nor by a link in it.
    (folder / STAGING).unlink()
    (folder / STAGING).mkdir()
    (folder / STAGING / "left.new").symlink_to(victim)
    assert place.publish(a_bundle(tmp_path / "c"))
    assert (victim / "weights").exists()


def test_nothing_is_written_or_removed_through_a_link_for_a_key(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    bundle, elsewhere = a_bundle(tmp_path / "b"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / bundle.statement.key.digest).symlink_to(elsewhere)
    with pytest.raises(UnsafePath, match="is a link"):
        place.publish(bundle)
    assert everything(elsewhere) == []
    (folder / bundle.statement.key.digest).unlink()
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    (folder / placed.key).rename(elsewhere / "moved")
    (folder / placed.key).symlink_to(elsewhere / "moved")
    with pytest.raises(UnsafePath, match="is a link"):
        place.remove(placed)
    assert len(everything(elsewhere / "moved")) == 3


def test_a_pipe_does_not_hang_anybody(place: DirectoryPlace, folder: Path, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    (folder / placed.folder / "bundle.json").unlink()
    os.mkfifo(folder / placed.folder / "bundle.json")
    with pytest.raises(UnsafePath, match="no regular file"):
        place.envelope(placed)


def test_a_cut_archive_at_the_place_is_told(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", b"whole")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    os.truncate(folder / placed.folder / "archive.tar.zst", 2)
    with pytest.raises(BrokenBundle, match="2 bytes, and its statement says"):
        place.locate(placed, bundle.statement.archive)


def test_a_folder_without_an_envelope_gives_way(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    (folder / placed.folder / "bundle.json").unlink()
    assert place.generations(placed.key) == ()
    assert place.publish(bundle)
    assert place.envelope(placed) == bundle.envelope_bytes


def test_a_place_that_is_not_ours_to_write(tmp_path: Path) -> None:
    sysfs = DirectoryPlace(parse_uri("file:///sys/kernel"), within=None, forbidden=tmp_path / "c")
    with pytest.raises(AuthFailed, match="make it writable"):  # for root, too
        sysfs.publish(a_bundle(tmp_path / "b"))


def test_two_hundred_publishers_of_one_bundle_at_once(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(100_000))
    told: list[bool | ModelCacheError] = []
    barrier = threading.Barrier(20)

    def publish() -> None:
        barrier.wait()
        for _ in range(10):
            try:
                told.append(place.publish(bundle))
            except ModelCacheError as error:
                told.append(error)

    threads = [threading.Thread(target=publish) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told, key=repr) == [False] * 199 + [True]
    (placed,) = place.generations(bundle.statement.key.digest)
    assert (folder / placed.folder / "archive.tar.zst").read_bytes() == bundle.archive.read_bytes()
    assert list((folder / STAGING).iterdir()) == []


def test_publishing_and_removing_against_each_other(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    """Whoever looks sees a whole bundle, or none."""
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    content = bundle.archive.read_bytes()
    key = bundle.statement.key.digest
    over = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not over.is_set():
            for placed in place.generations(key):
                try:
                    if place.envelope(placed) != bundle.envelope_bytes:
                        wrong.append("envelope")
                    fd = place.locate(placed, bundle.statement.archive).open()
                    with os.fdopen(fd, "rb") as file:
                        if file.read() != content:
                            wrong.append("archive")
                except NotFound:
                    pass  # it has just been removed
                except ModelCacheError as error:
                    wrong.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(50):
        assert place.publish(bundle)
        (placed,) = place.generations(key)
        place.remove(placed)
    over.set()
    looking.join()
    assert wrong == []
    assert everything(folder) == [STAGING]


def test_killed_at_each_step_nothing_is_seen_and_the_next_publishes(tmp_path: Path) -> None:
    """SIGKILL before each system call that changes something."""
    work = subprocess.run(
        [sys.executable, "-m", "tests.support.placework", str(tmp_path), "3000000"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert work.returncode == 0, work.stderr
    steps = int(work.stdout)
    assert steps > 10
    bundle = a_bundle(tmp_path / "same", noise(3_000_000))
    other = a_bundle(tmp_path / "other", key=a_key("org/other"))
    key = bundle.statement.key.digest
    seen = []
    for step in range(1, steps + 1):
        place, staging = opened(tmp_path / f"{step}"), tmp_path / f"{step}" / STAGING
        for placed in place.generations(key):
            assert place.envelope(placed) == bundle.envelope_bytes
            location = place.locate(placed, bundle.statement.archive)
            assert Path(location.path).read_bytes() == bundle.archive.read_bytes()
        seen.append(bool(place.generations(key)))
        assert place.publish(bundle) is not seen[-1]
        for path in staging.rglob("*"):
            old = path.stat().st_mtime - LEFTOVER_SECONDS - 1
            os.utime(path, (old, old))
        assert place.publish(other)
        assert list(staging.iterdir()) == []
    assert seen == sorted(seen), "once it is seen it stays seen"
    assert seen[0] is False
    assert seen[-1] is True


def test_what_another_publisher_is_at_work_on_stays(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    at_work = folder / STAGING / "other.new"
    at_work.mkdir(parents=True)
    (at_work / "archive.tar.zst").write_bytes(b"half")
    old = at_work.stat().st_mtime - LEFTOVER_SECONDS - 1
    os.utime(at_work, (old, old))
    place.publish(a_bundle(tmp_path / "b"))
    assert at_work.is_dir()


def test_the_key_s_folder_that_another_takes_away(
    place: DirectoryPlace, folder: Path, tmp_path: Path
) -> None:
    """Who removes the last bundle of a key removes its folder, which a publisher has just made."""
    wrong: list[ModelCacheError] = []

    def churn(bundle: LocalBundle) -> None:
        try:
            for _ in range(100):
                assert place.publish(bundle)
                placed = place.find(bundle.digest)
                assert placed is not None
                place.remove(placed)
        except ModelCacheError as error:
            wrong.append(error)

    bundles = [a_bundle(tmp_path / f"{number}", b"%d" % number) for number in range(3)]
    threads = [threading.Thread(target=churn, args=(bundle,)) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert everything(folder) == [STAGING]


def test_a_rename_that_is_told_of_as_failed_and_was_made(
    place: DirectoryPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of NFS whose first answer was lost asks again, and hears that nothing is there."""
    rename = Durable.rename

    def lost(self: Durable, source: Path, target: Path) -> None:
        rename(self, source, target)
        if os.path.realpath(target.parent).endswith(a_key().digest):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))

    bundle = a_bundle(tmp_path / "b")
    monkeypatch.setattr(Durable, "rename", lost)
    assert place.publish(bundle) is True
    assert place.find(bundle.digest) is not None
