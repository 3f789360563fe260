"""What reads ahead for a path, on machines of the clouds."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.errors import UsageError
from modelcache.host.backing import Backing, Host, Kind, NoReadAhead
from tests.support.sysfs import Machine
from tests.unit.host import machines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def behind(machine: Machine, path: str) -> Backing:
    return machine.host.backing_of_path(Path(path))


def refused(machine: Machine, path: str) -> str:
    with pytest.raises(NoReadAhead) as raised:
        behind(machine, path)
    return str(raised.value)


def test_a_disk_that_is_mounted_as_a_whole(machine: Machine) -> None:
    machines.eks(machine)
    found = behind(machine, "/mnt/nvme/modelcache/blobs")
    assert (found.bdi, found.kind, found.name) == ("259:2", Kind.DISK, "nvme1n1")
    assert found.model == machines.INSTANCE_STORE
    assert found.layers == ()


def test_a_partition_has_its_disks(machine: Machine) -> None:
    machines.eks(machine)
    found = behind(machine, "/var/lib")
    assert (found.bdi, found.name, found.model) == ("259:0", "nvme0n1", machines.EBS)
    assert machine.host.queue(found, "max_sectors_kb") == 256
    assert machine.host.queue(found, "other") is None


def test_memory_is_not_read_ahead(machine: Machine) -> None:
    machines.eks(machine)
    assert refused(machine, "/run/x") == "/run is on tmpfs, which is not read ahead"


def test_a_persistent_disk_of_scsi_and_the_volume_of_a_pod(machine: Machine) -> None:
    machines.gke(machine)
    root, pod = behind(machine, "/"), "/var/lib/kubelet/pods/8f/volumes/kubernetes.io~csi/pv/mount"
    assert (root.bdi, root.model) == ("8:0", "Google PersistentDisk")
    assert behind(machine, pod).bdi == "8:16"


def test_of_an_md_device_its_own_counts(machine: Machine) -> None:
    machines.gke(machine)
    found = behind(machine, "/mnt/disks/raid/0/modelcache")
    assert (found.bdi, found.name) == ("9:0", "md0")
    assert machine.host.read_ahead_kb(found.bdi) == 2048
    assert [layer.bdi for layer in found.layers] == ["259:0", "259:1"]
    # They don't agree; each may be asked for.
    assert found.model == ""
    assert found.models == {"nvme_card0", "nvme_card1"}


def test_of_a_logical_volume_its_own_counts(machine: Machine) -> None:
    machines.lvm(machine)
    found = behind(machine, "/models")
    assert (found.bdi, found.name) == ("253:0", "dm-0")
    assert found.model == "SAMSUNG MZQL23T8HCLS-00A07"
    # One of them is the disk of a partition.
    assert [(layer.bdi, layer.name) for layer in found.layers] == [
        ("259:0", "nvme0n1"),
        ("259:10", "nvme1n1"),
    ]


def test_nvme_with_several_paths(machine: Machine) -> None:
    machines.multipath(machine)
    found = behind(machine, "/")
    assert (found.bdi, found.name, found.model) == ("259:1", "nvme0n1", "PURE FlashArray")


def test_network_file_systems_and_fuse_have_one_for_each_mount(machine: Machine) -> None:
    machines.network(machine)
    nfs = behind(machine, f"{machines.STAGED}/filestore.csi.storage.gke.io/1/globalmount/x")
    assert (nfs.bdi, nfs.kind, nfs.name) == ("0:53", Kind.NETWORK, "10.0.0.2:/models")
    gcsfuse = behind(machine, "/var/lib/kubelet/pods/8f/volumes/kubernetes.io~csi/w/mount")
    assert (gcsfuse.bdi, gcsfuse.kind) == ("0:61", Kind.FUSE)
    assert behind(machine, "/mnt/s3").kind is Kind.FUSE
    assert behind(machine, "/").model == ""  # virtio


def test_those_that_have_only_a_number_are_told_apart_as_long_as_they_are_one(
    machine: Machine,
) -> None:
    machines.network(machine)
    assert behind(machine, "/mnt/share").bdi == "smb3-1"
    machine.bdi("smb3-2")
    machine.mount("0:71", "/mnt/other", "smb3", "//server/other")
    assert "doesn't say which read-ahead is whose" in refused(machine, "/mnt/share")


def test_of_two_with_a_number_and_one_bdi_neither_is_taken_for_the_other(machine: Machine) -> None:
    """A 9p without a cache has none."""
    machines.network(machine)
    machine.bdi("9p-1")
    machine.mount("0:80", "/mnt/a", "9p", "share-a")
    assert behind(machine, "/mnt/a").bdi == "9p-1"
    machine.mount("0:81", "/mnt/b", "9p", "share-b")
    assert "doesn't say which read-ahead is whose" in refused(machine, "/mnt/a")


def test_a_fuse_file_system_on_a_disk_has_its_own(machine: Machine) -> None:
    machines.eks(machine)
    machine.bdi("259:2-fuseblk")
    machine.mount("259:2", "/mnt/ntfs", "fuseblk", "/dev/nvme1n1")
    assert behind(machine, "/mnt/ntfs").bdi == "259:2-fuseblk"
    assert behind(machine, "/mnt/nvme").bdi == "259:2"


def test_btrfs_is_found_by_its_disks(machine: Machine) -> None:
    machines.lvm(machine)
    machine.btrfs("6f7a", "btrfs-1", "dm-0")
    machine.btrfs("8e01", "btrfs-2", "nvme0n1p3", "nvme1n1")
    machine.mount("0:40", "/a", "btrfs", "/dev/mapper/vg-models", "rw", "subvol=/")
    machine.mount("0:41", "/b", "btrfs", "/dev/nvme1n1")
    mapped, two = behind(machine, "/a"), behind(machine, "/b")
    assert (mapped.bdi, mapped.identity) == ("btrfs-1", "6f7a")
    assert (two.bdi, [layer.name for layer in two.layers]) == ("btrfs-2", ["nvme0n1", "nvme1n1"])
    assert two.model == "SAMSUNG MZQL23T8HCLS-00A07"
    machine.mount("0:42", "/c", "btrfs", "/dev/sdz")
    assert "sysfs doesn't know the btrfs on /dev/sdz" in refused(machine, "/c")


def test_a_member_that_was_pulled_is_no_crash(machine: Machine) -> None:
    machines.lvm(machine)
    machine.btrfs("8e01", "btrfs-2", "nvme0n1p3", "nvme1n1")
    machine.mount("0:41", "/b", "btrfs", "/dev/nvme1n1")
    machine.pull("nvme1n1")
    for path, bdi in (("/b", "btrfs-2"), ("/", "253:0")):
        found = behind(machine, path)
        assert (found.bdi, [layer.name for layer in found.layers]) == (bdi, ["nvme0n1"])


def test_of_another_than_a_disk_no_queue_is_looked_for_by_its_name(
    machine: Machine, tmp_path: Path
) -> None:
    """The source of a FUSE mount is any text: a disk's name, a directory."""
    machines.eks(machine)
    (tmp_path / "source/queue").mkdir(parents=True)
    (tmp_path / "source/queue/max_sectors_kb").write_text("7")
    for number, source in enumerate(("nvme1n1", str(tmp_path / "source"))):
        machine.bdi(f"0:{number}")
        machine.mount(f"0:{number}", f"/f/{number}", "fuse.x", source)
        found = behind(machine, f"/f/{number}")
        assert machine.host.queue(found, "max_sectors_kb") is None


def test_an_overlay_has_that_of_its_upper_layer(machine: Machine) -> None:
    machines.eks(machine)
    for point, options in (
        ("/o/both", ("rw", "lowerdir=/lib/a:/lib/b", "upperdir=/mnt/nvme/u", "workdir=/w")),
        ("/o/read-only", ("ro", "lowerdir=/mnt/nvme/a:/lib/b")),
        ("/o/one-by-one", ("ro", "lowerdir+=/mnt/nvme/a", "lowerdir+=/lib/b")),
        ("/o/relative", ("rw", "lowerdir=l/AB:l/CD", "upperdir=diff")),
    ):
        machine.mount("0:90", point, "overlay", "overlay", *options)
    assert behind(machine, "/o/both/x").bdi == "259:2"
    assert behind(machine, "/o/read-only").bdi == "259:2"
    assert behind(machine, "/o/one-by-one").bdi == "259:2"
    assert "doesn't say where its layers are" in refused(machine, "/o/relative")


def test_overlays_on_one_another_come_to_an_end(machine: Machine) -> None:
    machines.eks(machine)
    machine.mount("0:90", "/a", "overlay", "overlay", "upperdir=/b/x")
    machine.mount("0:91", "/b", "overlay", "overlay", "upperdir=/a/x")
    assert "overlay" in refused(machine, "/a")


def test_a_loop_device_has_its_own_and_the_disk_below_is_a_layer(machine: Machine) -> None:
    machines.eks(machine)
    file = {"loop/backing_file": "/mnt/nvme/image"}
    machine.disk("virtual/block/loop0", "7:0", attributes=file)
    machine.mount("7:0", "/image", "ext4", "/dev/loop0")
    found = behind(machine, "/image")
    assert (found.bdi, found.name) == ("7:0", "loop0")
    assert [layer.bdi for layer in found.layers] == ["259:2"]


def test_what_had_a_bdi_and_what_has_it_now_differ(machine: Machine) -> None:
    machines.eks(machine)
    machine.btrfs("6f7a", "btrfs-1", "nvme1n1")
    machines_nfs = ("0:53", "/mnt/nfs", "nfs4", "server:/a")
    machine.bdi("0:53")
    machine.mount(*machines_nfs)
    host = machine.host

    def now(bdi: str) -> str | None:
        return host.identity(bdi, host.mounts())

    for path, bdi in (("/mnt/nvme", "259:2"), ("/mnt/nfs", "0:53")):
        assert behind(machine, path).identity == now(bdi) is not None
    assert now("btrfs-1") == "6f7a"
    (machine.sys / "dev/block/259:2/diskseq").write_text("77\n")
    assert now("259:2") == "77"
    machine.unmount("/mnt/nfs")
    assert now("0:53") is None
    machine.mount("0:53", "/mnt/nfs", "nfs4", "server:/b")
    assert now("0:53") == "server:/b 0:53"


def test_before_diskseq_a_serial_number_tells_disks_apart(machine: Machine) -> None:
    """Linux before 5.15."""
    machines.eks(machine)
    disk = machine.sys / "block/nvme1n1"
    (disk / "diskseq").unlink()
    assert behind(machine, "/mnt/nvme").identity == "3750748848"  # its size
    (disk / "device/serial").write_text("AWS24BBF51AF55097008\n")
    assert behind(machine, "/mnt/nvme").identity == "AWS24BBF51AF55097008"


def test_a_disk_that_goes_away_meanwhile_is_no_crash(machine: Machine) -> None:
    machines.gke(machine)
    for attribute in ("dev", "diskseq", "device/serial"):
        (machine.sys / "block/nvme1n1" / attribute).unlink(missing_ok=True)
    assert behind(machine, "/mnt/disks/raid/0").bdi == "9:0"


@pytest.mark.parametrize("content", [None, "no line of mountinfo\n"])
def test_a_list_of_mounts_that_cant_be_read(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "mountinfo"
    if content:
        file.write_text(content)
    with pytest.raises(UsageError, match="the mounts can't be read") as raised:
        Host(mountinfo=file).mounts()
    assert str(file) in str(raised.value)


def test_a_path_that_is_on_no_mount_of_the_list(machine: Machine) -> None:
    assert "doesn't say what it is on" in refused(machine, "/x")
