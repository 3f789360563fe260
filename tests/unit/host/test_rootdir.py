"""Where a root may lie, by the mounts of containers and hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.errors import UsageError
from modelcache.host.mounts import parse_mounts
from modelcache.host.rootdir import check_mount
from tests.unit.host.samples import BOTTLEROCKET, POD, WITH_DISK

ROOT = Path("/mnt/nvme/modelcache")
NVME = Path("/mnt/nvme")


def on(fs_type: str, options: str = "rw") -> bytes:
    return f"1 0 0:9 / / rw - ext4 /dev/a rw\n2 1 0:8 / /c {options} - {fs_type} x rw\n".encode()


def refused(root: Path, own: bytes, required: Path | None = None, host: bytes | None = None) -> str:
    with pytest.raises(UsageError) as raised:
        check_mount(root, parse_mounts(own), required, parse_mounts(host) if host else None)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("fs_type", ["ext4", "ext3", "xfs", "btrfs", "f2fs", "zfs", "bcachefs"])
def test_local_file_systems_will_do(fs_type: str) -> None:
    assert check_mount(Path("/c"), parse_mounts(on(fs_type)), None, None).fs_type == fs_type


@pytest.mark.parametrize(
    ("fs_type", "why"),
    [
        ("tmpfs", "memory"),
        ("ramfs", "memory"),
        ("overlay", "container's own"),
        ("nfs4", "network file system (nfs4)"),
        ("cifs", "network"),
        ("ceph", "network"),
        ("lustre", "network"),
        ("9p", "network"),
        ("virtiofs", "network"),
        ("fuse.gcsfuse", "FUSE file system (fuse.gcsfuse)"),
        ("fuse", "FUSE"),
    ],
)
def test_others_are_refused_by_what_they_are(fs_type: str, why: str) -> None:
    said = refused(Path("/c/root"), on(fs_type))
    assert why in said
    assert said.startswith("/c/root is on a")


def test_a_read_only_mount_is_refused() -> None:
    assert "read-only" in refused(Path("/c"), on("ext4", "ro,noatime"))


def test_in_a_container_the_hosts_list_says_whether_the_disk_is_mounted() -> None:
    host = parse_mounts(WITH_DISK)
    assert check_mount(ROOT, parse_mounts(POD), NVME, host).source == "/dev/nvme1n1"
    # The directory above will do too: whatever is mounted below it.
    assert check_mount(ROOT, parse_mounts(POD), Path("/mnt"), host)


WITHOUT_DISK = b"27 1 259:1 / / rw,relatime shared:1 - xfs /dev/nvme0n1p1 rw,attr2\n"
POD_WITHOUT_DISK = POD.replace(b"259:3 /modelcache", b"259:1 /mnt/nvme/modelcache")


def test_a_root_on_the_system_disk_is_refused_where_another_is_asked_for() -> None:
    said = refused(ROOT, POD_WITHOUT_DISK, NVME, WITHOUT_DISK)
    assert said.startswith("nothing is mounted at /mnt/nvme: ")
    assert "on the file system of / (xfs, /dev/nvme0n1p1)" in said


def test_without_the_hosts_list_a_container_cant_tell() -> None:
    assert "--host-mountinfo" in refused(ROOT, POD, NVME)


def test_on_the_host_its_own_list_will_do() -> None:
    assert check_mount(ROOT, parse_mounts(WITH_DISK), NVME, None)
    assert "nothing is mounted" in refused(ROOT, WITHOUT_DISK, NVME)


def test_a_disk_mounted_as_a_whole_at_the_root_is_no_bind_mount() -> None:
    assert check_mount(NVME, parse_mounts(WITH_DISK), NVME, None)


def test_bottlerockets_bind_mount_counts() -> None:
    pod = POD.replace(b"259:3 /modelcache /mnt/nvme/", b"259:20 /._mnt_modelcache /mnt/")
    place = Path("/mnt/modelcache")
    assert check_mount(place, parse_mounts(pod), place, parse_mounts(BOTTLEROCKET))
    unbound = b"".join(BOTTLEROCKET.splitlines(keepends=True)[:2])
    assert "nothing is mounted at /mnt/modelcache" in refused(place, pod, place, unbound)


def test_a_disk_that_came_after_the_container_is_noticed() -> None:
    assert "after this container had started" in refused(ROOT, POD_WITHOUT_DISK, NVME, WITH_DISK)


def test_a_root_beside_the_asked_mount_is_refused() -> None:
    assert "is not below it" in refused(Path("/var/lib/modelcache"), WITH_DISK, NVME)


def test_a_list_that_doesnt_say_is_no_leave() -> None:
    elsewhere = b"9 4 8:2 / /other rw - xfs /dev/b rw\n"
    assert "doesn't say" in refused(ROOT, elsewhere)
    assert "doesn't say" in refused(ROOT, POD, NVME, elsewhere)
