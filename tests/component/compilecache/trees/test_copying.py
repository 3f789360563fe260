"""Copying on real file systems, and against a process that swaps directories for links."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.compilecache.trees.copying import copy_tree
from modelcache.compilecache.trees.scanning import scan
from modelcache.errors import InsufficientDisk, TreeChanged
from tests.support.mounts import loop_mounted, run, tmpfs
from tests.support.trees import content, plant

MIB = 1024 * 1024

SWAPPING = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = (os.fsencode(name) for name in sys.argv[1:])
print("ready", flush=True)
while True:
    if libc.renameat2(-100, one, -100, other, 2):  # RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), "renameat2")
"""


@contextmanager
def swapped(one: Path, other: Path) -> Iterator[None]:
    """Two names that another process exchanges all the time."""
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPING, str(one), str(other)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended by itself"


@pytest.mark.root
@pytest.mark.parametrize("mkfs", [("mkfs.xfs", "-q"), ("mkfs.btrfs", "-q")])
def test_copies_share_their_blocks_where_the_file_system_can(
    tmp_path: Path, mkfs: tuple[str, ...]
) -> None:
    with loop_mounted(tmp_path / "disk", 320 * MIB, *mkfs) as disk:
        data = os.urandom(80 * MIB)
        plant(disk / "source", {"big": data, "empty": b""})
        copied = [
            copy_tree(disk / "source", scan(disk / "source"), disk / f"{n}") for n in range(4)
        ]
        assert [one.how for one in copied] == ["reflink"] * 4  # 400 MiB on 320
        with (disk / "0" / "big").open("r+b") as file:
            file.write(b"changed")
        run("sync", "-f", str(disk))
        assert (disk / "source" / "big").read_bytes() == data
        assert (disk / "1" / "big").read_bytes() == data


@pytest.mark.root
def test_copies_are_plain_where_it_cannot_and_between_file_systems(tmp_path: Path) -> None:
    files = {"a/big": os.urandom(3 * MIB + 5), "empty": b""}
    plant(tmp_path / "source", files)
    with tmpfs(tmp_path / "disk", 64 * MIB) as disk:
        out = copy_tree(tmp_path / "source", scan(tmp_path / "source"), disk / "copy")
        again = copy_tree(disk / "copy", scan(disk / "copy"), disk / "again")
        assert (out.how, again.how) == ("copy", "copy")
        assert content(disk / "copy") == content(disk / "again") == files


@pytest.mark.root
def test_on_a_full_disk_nothing_stays(tmp_path: Path) -> None:
    plant(tmp_path / "source", {"a/small": b"x" * MIB, "b/big": b"x" * 8 * MIB})
    with tmpfs(tmp_path / "disk", 4 * MIB) as disk:
        plant(disk / "copy", {"theirs": b""})
        with pytest.raises(InsufficientDisk):
            copy_tree(tmp_path / "source", scan(tmp_path / "source"), disk / "copy")
        assert content(disk / "copy") == {"theirs": b""}
        assert os.listdir(disk / "copy") == ["theirs"]


@pytest.mark.root
def test_where_there_is_no_inode_left_nothing_stays(tmp_path: Path) -> None:
    plant(tmp_path / "source", {"a/b/c": b"x"})
    with tmpfs(tmp_path / "disk", 4 * MIB, inodes=4) as disk:
        (disk / "copy").mkdir()
        with pytest.raises(InsufficientDisk):
            copy_tree(tmp_path / "source", scan(tmp_path / "source"), disk / "copy")
        assert os.listdir(disk / "copy") == []


def test_a_process_that_swaps_a_directory_for_a_link_gets_nothing_copied(tmp_path: Path) -> None:
    source = plant(tmp_path / "source", {f"sub/{n}": b"inner" for n in range(20)})
    plant(tmp_path / "secret", {f"{n}": b"outer" for n in range(20)})
    (source / "link").symlink_to(tmp_path / "secret")
    found, refused = set[bytes](), 0
    with swapped(source / "sub", source / "link"):
        for number in range(100):
            into = tmp_path / f"copy{number}"
            try:
                copy_tree(source, scan(source), into)
            except TreeChanged:
                refused += 1
                assert not into.exists()
            else:
                found.update(content(into).values())
    assert found <= {b"inner"}
    assert refused, "it never raced"
