"""Copying a scanned tree: the same bytes, nothing of a tree that changes, no link followed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.trees.copying import Copied, Owner, copy_bytes, copy_tree, plain_mode
from modelcache.compilecache.trees.scanning import scan
from modelcache.errors import Cancelled, InsufficientDisk, TreeChanged, UnsafePath, UsageError
from modelcache.transfer.cancelling import Cancel
from tests.support.trees import content, plant

FILES = {"a": b"one", "b/c": b"two" * 1000, "b/d/e": b"", "b.x/f": b"four", "g/h/i/j": b"five"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plant(tmp_path / "source", FILES)


def test_a_copy_has_the_same_files(tmp_path: Path, source: Path) -> None:
    copied = copy_tree(source, scan(source), tmp_path / "copy")
    assert content(tmp_path / "copy") == FILES
    assert (copied.files, copied.bytes) == (5, sum(map(len, FILES.values())))


def test_only_what_is_wanted_is_copied(tmp_path: Path, source: Path) -> None:
    (source / "link").symlink_to("a")
    copy_tree(source, scan(source, lambda path: not path.startswith("b")), tmp_path / "copy")
    assert sorted(content(tmp_path / "copy")) == ["a", "g/h/i/j"]


def test_times_are_kept_and_modes_made_plain(tmp_path: Path, source: Path) -> None:
    os.utime(source / "a", ns=(1, 1_700_000_000_123_456_789))
    (source / "a").chmod(0o700)
    (source / "b" / "c").chmod(0o666)
    umask = os.umask(0o077)
    try:
        copy_tree(source, scan(source), tmp_path / "copy")
    finally:
        os.umask(umask)
    copy = tmp_path / "copy"
    assert (copy / "a").stat().st_mtime_ns == 1_700_000_000_123_456_789
    modes = [(copy / path).stat().st_mode & 0o7777 for path in ("a", "b/c", "b", "")]
    assert modes == [0o755, 0o644, 0o755, 0o755]


@pytest.mark.parametrize(
    ("mode", "plain"), [(0o4755, 0o755), (0o600, 0o644), (0o700, 0o755), (0o677, 0o644)]
)
def test_plain_modes(mode: int, plain: int) -> None:
    assert plain_mode(mode) == plain


def test_a_copy_is_its_own(tmp_path: Path, source: Path) -> None:
    copy_tree(source, scan(source), tmp_path / "copy")
    with (tmp_path / "copy" / "a").open("r+b") as file:
        file.write(b"x")
    assert content(source) == FILES


@pytest.mark.root
def test_a_copy_belongs_to_its_owner_with_its_folders(tmp_path: Path, source: Path) -> None:
    copy_tree(source, scan(source), tmp_path / "copy", owner=Owner(12345, 54321))
    for path in ("", "a", "b", "b/d/e"):
        status = (tmp_path / "copy" / path).stat()
        assert (status.st_uid, status.st_gid) == (12345, 54321)


def test_who_may_not_give_files_away_is_told(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchown", refuse)
    copy_tree(source, scan(source), tmp_path / "mine", owner=Owner(os.getuid(), os.getgid()))
    with pytest.raises(UsageError, match="may not give files to 1:2"):
        copy_tree(source, scan(source), tmp_path / "copy", owner=Owner(1, 2))
    assert not (tmp_path / "copy").exists()


def _grow(source: Path) -> None:
    (source / "g" / "h" / "i" / "j").write_bytes(b"more")


def _swap(source: Path) -> None:
    (source / "g").rename(source / "real")
    (source / "g").symlink_to("real")


def _remove(source: Path) -> None:
    (source / "g" / "h" / "i" / "j").unlink()


@pytest.mark.parametrize("change", [_grow, _swap, _remove])
@pytest.mark.parametrize("made", [True, False])
def test_of_a_tree_that_changed_nothing_stays(
    tmp_path: Path, source: Path, change: Callable[[Path], None], made: bool
) -> None:
    into = tmp_path / "copy"
    if not made:
        plant(into, {"theirs": b""})
    tree = scan(source)
    change(source)
    with pytest.raises(TreeChanged):
        copy_tree(source, tree, into)
    assert not into.exists() if made else content(into) == {"theirs": b""}
    assert not (into / "b").exists()


def test_what_is_there_is_never_written_to(tmp_path: Path, source: Path) -> None:
    plant(tmp_path / "copy", {"g/mine": b"mine"})
    with pytest.raises(UnsafePath, match="copy/g is there already"):
        copy_tree(source, scan(source), tmp_path / "copy")
    assert content(tmp_path / "copy") == {"g/mine": b"mine"}


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_link_in_the_target_is_not_followed(tmp_path: Path, source: Path, name: str) -> None:
    outside = plant(tmp_path / "outside", {})
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / name).symlink_to(outside / "new" if name == "a" else outside)
    with pytest.raises(UnsafePath):
        copy_tree(source, scan(source), tmp_path / "copy")
    assert content(outside) == {}


def test_a_target_that_is_a_link_is_refused(tmp_path: Path, source: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "copy").symlink_to("real")
    with pytest.raises(UnsafePath, match="not a directory of its own"):
        copy_tree(source, scan(source), tmp_path / "copy")
    assert content(tmp_path / "real") == {}


def test_a_full_disk_is_said_and_nothing_stays(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(InsufficientDisk):
        copy_tree(source, scan(source), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("size", [0, 10])
def test_copying_can_be_cancelled(tmp_path: Path, size: int) -> None:
    source = plant(tmp_path / "source", {"a": bytes(size)})
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        copy_tree(source, scan(source), tmp_path / "copy", cancel=cancel)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EPERM, None])
@pytest.mark.parametrize("broken", [1, 2])
def test_where_the_quick_ways_do_not_work_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, broken: int
) -> None:
    data = os.urandom(40 * 1024 * 1024 + 7)
    (tmp_path / "one").write_bytes(data)
    used = []

    def breaking(name: str) -> None:
        def call(*_: Any) -> int:
            used.append(name)
            if number is None:
                return 0  # as some file systems do, without a word
            raise OSError(number, "no")

        monkeypatch.setattr(os, name, call)

    for name in ("copy_file_range", "sendfile")[:broken]:
        breaking(name)
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("wb") as two:
        assert copy_bytes(one.fileno(), two.fileno(), len(data), Cancel())
    assert (tmp_path / "two").read_bytes() == data
    assert used == ["copy_file_range", "sendfile"][:broken]


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"abc")
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("wb") as two:
        assert not copy_bytes(one.fileno(), two.fileno(), 4, Cancel())


def test_an_empty_tree_is_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    copied = copy_tree(tmp_path / "source", scan(tmp_path / "source"), tmp_path / "copy")
    assert copied == Copied(0, 0, "copy")
    assert (tmp_path / "copy").is_dir()


def test_no_descriptor_is_left(tmp_path: Path, source: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    copy_tree(source, scan(source), tmp_path / "copy")
    tree = scan(source)
    _grow(source)
    with pytest.raises(TreeChanged):
        copy_tree(source, tree, tmp_path / "other")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_written_to_while_it_is_copied_is_noticed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, once = os.copy_file_range, threading.Event()

    def writing(one: int, two: int, size: int) -> int:
        if not once.is_set():
            once.set()
            with (source / "a").open("r+b") as file:
                file.write(b"ONE")
            os.utime(source / "a", ns=(0, 12345))
        return real(one, two, size)

    monkeypatch.setattr(os, "copy_file_range", writing)
    with pytest.raises(TreeChanged, match="a changed"):
        copy_tree(source, scan(source), tmp_path / "copy")
