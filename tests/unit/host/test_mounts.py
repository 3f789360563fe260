"""Reading mountinfo, and finding the mount that holds a path."""

from __future__ import annotations

import os
from pathlib import PurePosixPath as Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.host.mounts import covering, parse_mounts, read_mounts
from tests.unit.host.samples import BOTTLEROCKET, POD, WITH_DISK


def point_of(content: bytes, path: str) -> str:
    found = covering(parse_mounts(content), Path(path))
    assert found is not None
    return f"{found.point} {found.fs_type}"


def test_every_field_of_a_line() -> None:
    (mount,) = parse_mounts(
        b"61 30 259:3 /part /mnt/nvme rw,noatime shared:31 master:2 - xfs /dev/nvme1n1 rw,attr2\n"
    )
    assert (mount.id, mount.parent, mount.device) == (61, 30, "259:3")
    assert (mount.root, mount.point) == (Path("/part"), Path("/mnt/nvme"))
    assert mount.options == {"rw", "noatime"}
    assert (mount.fs_type, mount.source) == ("xfs", "/dev/nvme1n1")
    assert mount.fs_options == ("rw", "attr2")
    assert not mount.read_only


def test_the_optional_fields_may_be_none_or_many() -> None:
    none, many = parse_mounts(
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 8:2 / /a rw a:1 b:2 unbindable - xfs /dev/b ro\n"
    )
    assert (none.fs_type, many.fs_type) == ("ext4", "xfs")
    assert many.read_only


def test_a_source_may_be_empty() -> None:
    (mount,) = parse_mounts(b"1 0 0:9 / /x rw - tmpfs  rw\n")
    assert (mount.fs_type, mount.source) == ("tmpfs", "")


def test_a_source_may_be_a_hyphen() -> None:
    (mount,) = parse_mounts(b"1 0 0:9 / /x rw - fuse.x - rw\n")
    assert (mount.fs_type, mount.source) == ("fuse.x", "-")


def test_escapes_are_taken_back() -> None:
    (mount,) = parse_mounts(
        rb"1 0 0:9 /a\040b /tab\011nl\012bs\134sharp\043 rw - cifs //host/my\040share rw" + b"\n"
    )
    assert mount.root == Path("/a b")
    assert mount.point == Path("/tab\tnl\nbs\\sharp#")
    assert mount.source == "//host/my share"


@given(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name))
def test_any_name_comes_back_as_it_is(name: bytes) -> None:
    written = b"".join(rb"\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    (mount,) = parse_mounts(b"1 0 0:9 / /" + written + b" rw - ext4 none rw\n")
    assert str(mount.point) == str(Path(os.fsdecode(b"/" + name)))


@pytest.mark.parametrize(
    "line", [b"x", b"1 2 3", b"1 0 0:9 / /x rw ext4 none rw", b"a 0 0:9 / /x rw - ext4 none rw"]
)
def test_another_format_is_an_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"line of mountinfo|invalid literal"):
        parse_mounts(line)


def test_the_nearest_mount_above_holds_a_path() -> None:
    assert point_of(POD, "/mnt/nvme/modelcache/blobs") == "/mnt/nvme/modelcache xfs"
    assert point_of(POD, "/mnt/nvme") == "/ overlay"
    assert point_of(WITH_DISK, "/mnt/nvme/modelcache") == "/mnt/nvme xfs"
    assert point_of(WITH_DISK, "/mnt/nvme2") == "/mnt tmpfs"
    assert point_of(BOTTLEROCKET, "/mnt/modelcache") == "/mnt/modelcache xfs"
    assert point_of(BOTTLEROCKET, "/mnt/other") == "/mnt xfs"


def test_what_lies_on_the_initial_file_system_is_looked_for_on_top_of_it() -> None:
    assert point_of(WITH_DISK, "/var/lib") == "/ xfs"


STACKED = b"""\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 8:2 / /mnt rw - xfs /dev/below rw
3 2 8:3 / /mnt rw - ext3 /dev/above rw
"""


def test_a_mount_on_the_same_place_hides_the_one_below() -> None:
    assert point_of(STACKED, "/mnt/x") == "/mnt ext3"
    backwards = b"".join(line + b"\n" for line in reversed(STACKED.splitlines()))
    assert point_of(backwards, "/mnt/x") == "/mnt ext3"


def test_a_mount_on_a_directory_above_hides_those_in_it() -> None:
    hidden = b"""\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 8:2 / /mnt/nvme rw - xfs /dev/hidden rw
3 1 0:9 / /mnt rw - tmpfs tmpfs rw
"""
    assert point_of(hidden, "/mnt/nvme") == "/mnt tmpfs"


def test_a_list_without_a_root_is_searched_from_the_first_that_is_there() -> None:
    chroot = b"9 4 8:2 /jail/mnt /mnt rw - xfs /dev/b rw\n"
    assert point_of(chroot, "/mnt/x") == "/mnt xfs"
    assert covering(parse_mounts(chroot), Path("/other")) is None
    assert covering((), Path("/")) is None


def test_this_machines_list_is_understood() -> None:
    mounts = read_mounts()
    assert {mount.point for mount in mounts} >= {Path("/proc")}
    for path in ("/", "/proc", "/dev"):
        found = covering(mounts, Path(path))
        assert found is not None
        number = os.stat(path).st_dev
        if found.fs_type != "btrfs":
            assert found.device == f"{os.major(number)}:{os.minor(number)}"
