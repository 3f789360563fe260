"""The kernel's own lists: what we say holds a path is what stat says."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import pytest

from modelcache.host.mounts import Mount, covering, read_mounts
from tests.support.mounts import bound, loop_mounted, tmpfs

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20
ODD = "a b\tc\nd\\e#f\\040g-\N{GREEK SMALL LETTER MU}"


def held_by(path: Path) -> Mount:
    found = covering(read_mounts(), PurePosixPath(path))
    assert found is not None
    number = path.stat().st_dev
    assert found.device == f"{os.major(number)}:{os.minor(number)}"
    return found


def test_names_that_the_kernel_escapes(tmp_path: Path) -> None:
    place = tmp_path / ODD / ODD
    with tmpfs(place, MEBIBYTE):
        assert held_by(place).point == PurePosixPath(place)
        assert held_by(place).fs_type == "tmpfs"
    assert held_by(place).point != PurePosixPath(place)


def test_stacked_hidden_and_bound(tmp_path: Path) -> None:
    inner, outer = tmp_path / "outer" / "inner", tmp_path / "outer"
    with ExitStack() as stack:
        stack.enter_context(tmpfs(inner, MEBIBYTE))
        below = held_by(inner)
        stack.enter_context(tmpfs(inner, MEBIBYTE))
        assert held_by(inner).id != below.id
        stack.enter_context(tmpfs(outer, MEBIBYTE))
        inner.mkdir()
        assert held_by(inner).point == PurePosixPath(outer)


def test_a_bind_mount_names_the_part_of_the_file_system(tmp_path: Path) -> None:
    with loop_mounted(tmp_path / "disk", 32 * MEBIBYTE, "mkfs.ext4", "-q") as disk:
        part = disk / "some part"
        part.mkdir()
        with bound(part, tmp_path / "place") as place:
            found = held_by(place)
            assert (found.fs_type, found.root) == ("ext4", PurePosixPath("/some part"))
        assert held_by(disk).root == PurePosixPath("/")
