"""Machines as the clouds have them: disks, stacks of disks, network file systems."""

from __future__ import annotations

from tests.support.sysfs import Machine

EBS = "Amazon Elastic Block Store"
INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"
STAGED = "/var/lib/kubelet/plugins/kubernetes.io/csi"


def eks(machine: Machine) -> None:
    """An EKS node with instance storage: the system on EBS, the cache on the node's own NVMe.

    Models: docs.aws.amazon.com/ebs, "Map Amazon EBS volumes to NVMe device names". The kernel pads
    a model to the 40 characters of NVMe's Identify.
    """
    for number, (model, partitions) in enumerate(
        ((EBS, {"nvme0n1p1": "259:1"}), (INSTANCE_STORE, {}))
    ):
        machine.disk(
            f"pci0000:00/0000:00:{number}f.0/nvme/nvme{number}/nvme{number}n1",
            f"259:{2 * number}",
            device={"model": model.ljust(40)},
            queue={"max_sectors_kb": 256, "optimal_io_size": 0},
            partitions=partitions,
        )
    machine.mount("259:1", "/", "xfs", "/dev/nvme0n1p1")
    machine.mount("0:25", "/run", "tmpfs", "tmpfs")
    machine.mount("259:2", "/mnt/nvme", "xfs", "/dev/nvme1n1")


def gke(machine: Machine) -> None:
    """A GKE node: the system and a staged PersistentVolume on Persistent Disks (SCSI), two local
    SSDs in an md RAID 0.

    Models: of SCSI as `lsblk -S` shows them there; `nvme_card` with a number is a local SSD's,
    `nvme_card-pd` that of a Persistent Disk on newer machines. gke-raid-disks makes /dev/md0.
    """
    for number, (name, partitions) in enumerate((("sda", {"sda1": "8:1"}), ("sdb", {}))):
        machine.disk(
            f"pci0000:00/0000:00:03.0/virtio0/host0/target0:0:{number}/0:0:{number}:0/block/{name}",
            f"8:{16 * number}",
            device={"vendor": "Google  ", "model": "PersistentDisk  "},
            queue={"max_sectors_kb": 256, "optimal_io_size": 0},
            partitions=partitions,
        )
    for number in (0, 1):
        machine.disk(
            f"pci0000:00/0000:00:0{4 + number}.0/nvme/nvme{number}/nvme{number}n1",
            f"259:{number}",
            device={"model": f"nvme_card{number}".ljust(40)},
        )
    # md sets its own read-ahead from the size of its stripes: two chunks of 512 KiB, twice.
    machine.disk(
        "virtual/block/md0",
        "9:0",
        kib=2048,
        slaves=("nvme0n1", "nvme1n1"),
        queue={"max_sectors_kb": 512, "optimal_io_size": 1048576},
        attributes={"md/level": "raid0"},
    )
    machine.mount("8:1", "/", "ext4", "/dev/sda1")
    machine.mount("9:0", "/mnt/disks/raid/0", "ext4", "/dev/md0")
    handle = f"{STAGED}/pd.csi.storage.gke.io/5f3c/globalmount"
    machine.mount("8:16", handle, "ext4", "/dev/sdb")
    pod = "/var/lib/kubelet/pods/8f/volumes/kubernetes.io~csi/pv/mount"
    machine.mount("8:16", pod, "ext4", "/dev/sdb")


def lvm(machine: Machine) -> None:
    """A logical volume on a partition of one disk and the whole of another of the same model."""
    for number, partitions in ((0, {"nvme0n1p3": "259:3"}), (1, {})):
        machine.disk(
            f"pci0000:00/0000:0{number}:00.0/nvme/nvme{number}/nvme{number}n1",
            f"259:{10 * number}",
            device={"model": "SAMSUNG MZQL23T8HCLS-00A07".ljust(40)},
            partitions=partitions,
        )
    machine.disk(
        "virtual/block/dm-0",
        "253:0",
        slaves=("nvme0n1p3", "nvme1n1"),
        attributes={"dm/name": "vg-models", "dm/uuid": "LVM-abc"},
    )
    machine.mount("253:0", "/", "xfs", "/dev/mapper/vg-models")


def multipath(machine: Machine) -> None:
    """NVMe with two paths: the disk that is mounted belongs to the subsystem, and the paths'
    own are hidden (drivers/nvme/host/multipath.c)."""
    machine.disk(
        "virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
        "259:1",
        device={"model": "PURE FlashArray".ljust(40)},
    )
    machine.mount("259:1", "/", "xfs", "/dev/nvme0n1")


def network(machine: Machine) -> None:
    """Network file systems and FUSE, with a bdi named by the number of the mount
    (nfs_super_set_maxbytes and fuse_bdi_init in the kernel), or by their type."""
    machine.disk(
        "pci0000:00/0000:00:02.0/virtio1/block/vda",
        "254:0",
        device={"vendor": "0x1af4"},  # virtio says no model, and a number for a vendor
    )
    machine.mount("254:0", "/", "ext4", "/dev/vda")
    for device, point, fs_type, source in (
        (
            "0:53",
            f"{STAGED}/filestore.csi.storage.gke.io/1/globalmount",
            "nfs4",
            "10.0.0.2:/models",
        ),
        ("0:61", "/var/lib/kubelet/pods/8f/volumes/kubernetes.io~csi/w/mount", "fuse.gcsfuse", "b"),
        ("0:62", "/mnt/s3", "fuse", "s3fs"),
    ):
        machine.bdi(device)
        machine.mount(device, point, fs_type, source)
    machine.bdi("smb3-1")
    machine.mount("0:70", "/mnt/share", "smb3", "//server/share")
