"""Scanning a tree: what is found, what is odd, what is too much, and that no link is followed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.trees.naming import path_trouble
from modelcache.compilecache.trees.opening import open_below, opened, root_folder
from modelcache.compilecache.trees.scanning import MAX_ODD, Entry, Limits, Odd, Tree, scan
from modelcache.errors import NotFound, TreeChanged, TreeTooLarge, UnsafePath


def put(root: Path, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def paths(tree: Tree) -> list[str]:
    return [entry.path for entry in tree.entries]


def test_files_are_found_at_all_depths_and_sorted(tmp_path: Path) -> None:
    put(tmp_path, "b/c", "b.c", "a", "b/a/z")
    (tmp_path / "empty").mkdir()
    tree = scan(tmp_path)
    assert paths(tree) == ["a", "b.c", "b/a/z", "b/c"]
    assert (tree.bytes, tree.odd, tree.oddities, tree.unwanted) == (4, (), 0, ())


def test_what_is_not_wanted_is_kept_apart(tmp_path: Path) -> None:
    put(tmp_path, "vllm/model", "vllm/model.lock", "startup_plan/a")
    tree = scan(tmp_path, lambda path: path == "vllm/model")
    assert paths(tree) == ["vllm/model"]
    assert [entry.path for entry in tree.unwanted] == ["startup_plan/a", "vllm/model.lock"]


def test_an_entry_says_what_the_file_is(tmp_path: Path) -> None:
    put(tmp_path, "run", content=b"abc")
    (tmp_path / "run").chmod(0o750)
    status = (tmp_path / "run").stat()
    (entry,) = scan(tmp_path).entries
    assert (entry.size, entry.mode, entry.uid) == (3, 0o750, os.getuid())
    assert (entry.mtime_ns, entry.inode) == (status.st_mtime_ns, status.st_ino)
    assert entry.is_same(status)


def _link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def _folder_link(place: Path) -> None:
    place.symlink_to("/etc")


def _socket(place: Path) -> None:
    folder = os.open(place.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind(f"/proc/self/fd/{folder}/{place.name}")  # sun_path has 108 bytes
    finally:
        os.close(folder)


def _setuid(place: Path) -> None:
    place.write_bytes(b"#!")
    place.chmod(0o4755)


def _sticky(place: Path) -> None:
    place.write_bytes(b"")
    place.chmod(0o1644)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_link, "link"),
        (_folder_link, "link"),
        (os.mkfifo, "fifo"),
        (_socket, "socket"),
        (_setuid, "setuid"),
        (_sticky, "setuid"),
    ],
)
def test_odd_things_are_left_out_and_told(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    put(tmp_path, "a/good")
    make(tmp_path / "a" / "odd")
    tree = scan(tmp_path)
    assert paths(tree) == ["a/good"]
    assert [(odd.path, odd.what) for odd in tree.odd] == [("a/odd", what)]
    assert tree.oddities == 1
    assert tree.odd[0].sentence.startswith("a/odd ")


@pytest.mark.root
def test_a_device_and_another_users_file_are_odd(tmp_path: Path) -> None:
    put(tmp_path, "mine", "theirs")
    os.chown(tmp_path / "theirs", 12345, 12345)
    os.mknod(tmp_path / "null", 0o020666, os.makedev(1, 3))
    tree = scan(tmp_path, owner=os.getuid())
    assert paths(tree) == ["mine"]
    assert tree.odd == (Odd("null", "device"), Odd("theirs", "owner"))


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"\x1b[2J", "a\u202eb".encode(), b"a\\b"])
def test_names_that_cannot_be_printed_are_odd_with_all_below_them(
    tmp_path: Path, name: bytes
) -> None:
    put(tmp_path, "good")
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) / "inner").write_bytes(b"x")
    tree = scan(tmp_path)
    assert paths(tree) == ["good"]
    assert [odd.what for odd in tree.odd] == ["name"]
    assert tree.odd[0].path.isprintable()


def test_what_is_odd_and_unwanted_is_no_matter(tmp_path: Path) -> None:
    put(tmp_path, "good")
    (tmp_path / "latest").symlink_to("good")
    assert scan(tmp_path, lambda path: path != "latest").oddities == 0


def test_of_very_many_odd_things_some_are_named_and_all_are_counted(tmp_path: Path) -> None:
    for number in range(MAX_ODD + 5):
        (tmp_path / f"link{number:03}").symlink_to("/")
    tree = scan(tmp_path)
    assert (len(tree.odd), tree.oddities) == (MAX_ODD, MAX_ODD + 5)


def test_too_deep_is_odd(tmp_path: Path) -> None:
    put(tmp_path, "1/2/file", "1/2/3/file")
    tree = scan(tmp_path, limits=Limits(depth=2))
    assert paths(tree) == ["1/2/file"]
    assert tree.odd == (Odd("1/2/3", "depth"),)


def test_a_path_that_is_too_long_is_odd(tmp_path: Path) -> None:
    folder = "d" * 250
    fd = os.open(tmp_path, os.O_PATH)
    for _ in range(14):  # 3500 bytes, which no single call could name
        os.mkdir(folder, dir_fd=fd)
        fd, above = os.open(folder, os.O_PATH, dir_fd=fd), fd
        os.close(above)
    os.close(fd)
    tree = scan(tmp_path)
    assert [odd.what for odd in tree.odd] == ["name"]


@pytest.mark.parametrize(
    "limits", [Limits(files=3), Limits(bytes=3), Limits(files=3, bytes=100), Limits(files=0)]
)
def test_more_than_the_limits_is_an_error(tmp_path: Path, limits: Limits) -> None:
    put(tmp_path, *(f"f{number}" for number in range(4)))
    with pytest.raises(TreeTooLarge):
        scan(tmp_path, limits=limits)


def test_names_that_are_not_wanted_are_bounded_too(tmp_path: Path) -> None:
    put(tmp_path, *(f"f{number}" for number in range(31)))
    with pytest.raises(TreeTooLarge, match="30 names"):
        scan(tmp_path, lambda path: False, limits=Limits(files=3))


def test_looking_has_a_time_limit(tmp_path: Path) -> None:
    put(tmp_path, *(f"f{number}" for number in range(300)))
    with pytest.raises(TreeTooLarge, match="longer than 0 s"):
        scan(tmp_path, limits=Limits(seconds=0))


def test_no_directory_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no directory"):
        scan(tmp_path / "none")
    put(tmp_path, "file")
    with pytest.raises(NotFound):
        scan(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert scan(tmp_path / "empty").state.count == 0


def test_the_root_itself_may_be_reached_over_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/file")
    (tmp_path / "link").symlink_to("real")
    assert paths(scan(tmp_path / "link")) == ["file"]


def _grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"y")


def _replace(file: Path) -> None:
    """The same name, size and mtime: only the inode and the ctime tell."""
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"z" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)


def _touch(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def _rename(file: Path) -> None:
    file.rename(file.with_name("other"))


@pytest.mark.parametrize("change", [_grow, _replace, _rename, Path.unlink, _touch])
def test_any_change_of_what_is_wanted_is_another_state(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    put(tmp_path, "a", "b/c")
    before = scan(tmp_path).state
    assert scan(tmp_path).state == before
    change(tmp_path / "b" / "c")
    assert scan(tmp_path).state != before


def test_a_change_of_what_is_not_wanted_is_the_same_state(tmp_path: Path) -> None:
    put(tmp_path, "a", "log")
    before = scan(tmp_path, lambda path: path == "a").state
    _grow(tmp_path / "log")
    assert scan(tmp_path, lambda path: path == "a").state == before


def test_a_directory_that_is_swapped_for_a_link_before_it_is_opened_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "tree/good", "tree/sub/inner", "secret/outer")
    place = tmp_path / "tree" / "sub"
    real = os.open

    def swapping(path: os.PathLike[str] | str, flags: int, *args: int, **named: int) -> int:
        if path == "sub":
            place.rename(tmp_path / "aside")
            place.symlink_to(tmp_path / "secret")
        return real(path, flags, *args, **named)

    monkeypatch.setattr(os, "open", swapping)
    assert paths(scan(tmp_path / "tree")) == ["good"]
    assert place.is_symlink()


def test_what_vanishes_before_it_is_looked_at_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "good", "sub/inner")
    real = os.open

    def removing(path: os.PathLike[str] | str, flags: int, *args: int, **named: int) -> int:
        if path == "sub":
            shutil.rmtree(tmp_path / "sub")
        return real(path, flags, *args, **named)

    monkeypatch.setattr(os, "open", removing)
    assert paths(scan(tmp_path)) == ["good"]


@pytest.mark.parametrize(
    "change",
    [
        {"path": "b"},
        *({name: 1} for name in ("size", "mode", "mtime_ns", "ctime_ns", "uid", "inode")),
    ],
)
def test_each_part_of_an_entry_is_part_of_the_state(change: dict[str, Any]) -> None:
    entry = Entry("a", size=0, mode=0, mtime_ns=5, ctime_ns=5, uid=0, inode=0)
    assert Tree((entry,)).state != Tree((replace(entry, **change),)).state


def test_no_link_is_opened_below_a_directory(tmp_path: Path) -> None:
    put(tmp_path, "real/file")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("file")
    with root_folder(tmp_path) as root:
        os.close(open_below(root, "real/file", os.O_RDONLY))
        for path in ("folder/file", "real/link"):
            with pytest.raises(OSError, match=r"symbolic|directory"):
                open_below(root, path, os.O_RDONLY)
        for path in ("/etc/passwd", "../a", "real/../real/file", ""):
            with pytest.raises(UnsafePath):
                open_below(root, path, os.O_RDONLY)


def test_a_scanned_file_is_opened_again_only_while_it_is_the_same(tmp_path: Path) -> None:
    put(tmp_path, "a/b", content=b"abc")
    (entry,) = scan(tmp_path).entries
    with root_folder(tmp_path) as root, opened(root, entry) as fd:
        assert os.read(fd, 10) == b"abc"


def _folder_swapped(root: Path) -> None:
    (root / "a").rename(root / "real")
    (root / "a").symlink_to("real")


def _link_in_place(root: Path) -> None:
    (root / "a" / "b").rename(root / "b")
    (root / "a" / "b").symlink_to("../b")


def _fifo_in_place(root: Path) -> None:
    (root / "a" / "b").unlink()
    os.mkfifo(root / "a" / "b")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: _grow(root / "a" / "b"),
        lambda root: _replace(root / "a" / "b"),
        lambda root: (root / "a" / "b").unlink(),
        _folder_swapped,
        _link_in_place,
        _fifo_in_place,
    ],
)
def test_a_file_that_changed_since_the_scan_is_not_opened(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    put(tmp_path, "a/b", content=b"abc")
    (entry,) = scan(tmp_path).entries
    change(tmp_path)
    with root_folder(tmp_path) as root, pytest.raises(TreeChanged), opened(root, entry):
        raise AssertionError("it was opened")


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    put(tmp_path, "a", content=b"abc")
    (entry,) = scan(tmp_path).entries
    with root_folder(tmp_path) as root, pytest.raises(TreeChanged), opened(root, entry):
        _grow(tmp_path / "a")


@given(st.text())
def test_a_path_without_trouble_stays_below_and_can_be_printed(path: str) -> None:
    if path_trouble(path) is None:
        assert path.isprintable()
        assert os.path.normpath(path) == path
        assert not Path(path).is_absolute()


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", ".", "a/../b", "a\0", "x" * 256])
def test_paths_with_trouble(path: str) -> None:
    assert path_trouble(path) is not None
