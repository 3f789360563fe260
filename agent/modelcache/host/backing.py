"""What reads ahead for the files of a mount: the kernel's backing-device info (bdi).

Of a stack of devices only the topmost counts: when a file is opened, the kernel copies the value of
the bdi of its *file system* into it (`file_ra_state_init` in mm/readahead.c). So a partition has
that of its disk, LVM and md volumes have their own whatever their members say, and a loop device's
is not that of the file behind it. A change holds for files that are opened after it.

The value is `read_ahead_kb` of `/sys/devices/virtual/bdi/<name>`, for disks, NFS and FUSE alike
(Documentation/ABI/testing/sysfs-class-bdi).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.errors import UsageError
from modelcache.host.mounts import OWN_MOUNTS, Mount, covering, read_mounts

_NONE: Final = (
    *("tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs", "proc", "sysfs", "cgroup", "cgroup2"),
    *("devpts", "mqueue", "debugfs", "tracefs", "securityfs", "pstore", "bpf", "configfs", "nsfs"),
    *("fusectl", "efivarfs", "binfmt_misc", "autofs", "rpc_pipefs", "selinuxfs"),
)
"""File systems that read nothing ahead: they are memory."""
_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "ceph", "lustre", "afs", "virtiofs")
_DEEPEST: Final = 16


class Kind(StrEnum):
    """What is behind a bdi."""

    DISK = "disk"
    NETWORK = "network"
    FUSE = "fuse"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Backing:
    """What reads ahead for a file system."""

    bdi: str
    """Its name below `/sys/class/bdi`: `259:0`, `0:53`, `btrfs-1`."""
    kind: Kind
    name: str
    """The disk's name (`nvme1n1`, `dm-0`), or the mount's source (`server:/export`)."""
    model: str = ""
    """What the disk calls itself, as in `Amazon EC2 NVMe Instance Storage`; of a stack, what those
    at its bottom do, where they agree. Empty: it doesn't say, as virtio disks don't."""
    identity: str = ""
    """Changes when another disk takes the same name: a number that the kernel gives each one that
    appears (`diskseq`, since Linux 5.15), or what else tells one file system from another."""
    layers: tuple[Backing, ...] = ()
    """What it is made of: the members of LVM and md volumes, the disk with a loop device's file.
    Their read-ahead plays no part for these files."""

    @property
    def models(self) -> frozenset[str]:
        """What it and its layers call themselves."""
        found = {self.model} if self.model else set()
        return frozenset(found.union(*(layer.models for layer in self.layers)))


class NoReadAhead(UsageError):
    """Files of a mount are not read ahead, or it can't be told by what."""


class NotReadAhead(NoReadAhead):
    """They are not: they are in memory, or their file system does without."""


class Host:
    """The machine's mounts and devices, as the kernel shows them. Read anew with each call."""

    def __init__(
        self,
        *,
        sys: Path = Path("/sys"),
        bdi: Path | None = None,
        mountinfo: Path = OWN_MOUNTS,
    ) -> None:
        """In a container the host's may be mounted elsewhere.

        Args:
            sys: sysfs.
            bdi: its `devices/virtual/bdi`, where that is mounted by itself, to be written.
            mountinfo: the host's `/proc/1/mountinfo`.
        """
        self._sys = sys
        self.bdi = bdi if bdi is not None else sys / "devices/virtual/bdi"
        self.mountinfo = mountinfo

    def mounts(self) -> tuple[Mount, ...]:
        """All mounts.

        Raises:
            UsageError: the list can't be read.
        """
        try:
            return read_mounts(self.mountinfo)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.mountinfo}: the mounts can't be read: {error}") from error

    def backing_of_path(self, path: Path, mounts: Sequence[Mount] | None = None) -> Backing:
        """What reads ahead for a file; symlinks are the caller's business.

        Raises:
            NoReadAhead
        """
        mounts = self.mounts() if mounts is None else mounts
        mount = covering(mounts, PurePosixPath(path))
        if mount is None:
            raise NoReadAhead(f"{path}: the list of mounts doesn't say what it is on")
        return self.backing(mount, mounts)

    def backing(self, mount: Mount, mounts: Sequence[Mount] | None = None) -> Backing:
        """What reads ahead for the files of a mount. `mounts`: all of them, if they are at hand.

        Raises:
            NoReadAhead
        """
        mounts = self.mounts() if mounts is None else mounts
        return self._backing(mount, mounts, _DEEPEST)

    def _backing(self, mount: Mount, mounts: Sequence[Mount], depth: int) -> Backing:
        if mount.fs_type in _NONE:
            raise NotReadAhead(f"{mount.point} is on {mount.fs_type}, which is not read ahead")
        if mount.fs_type == "overlay":
            return self._below_overlay(mount, mounts, depth)
        if mount.fs_type == "btrfs":
            return self._of_btrfs(mount)
        if mount.fs_type == "fuseblk" and (self.bdi / f"{mount.device}-fuseblk").is_dir():
            return self._plain(f"{mount.device}-fuseblk", Kind.FUSE, mount)
        if (self._sys / "dev/block" / mount.device).exists():
            return self._of_disk(self._disk(mount.device), mounts, depth)
        name = self._unnamed(mount, mounts)
        return self._plain(name, _kind(mount.fs_type), mount)

    def _plain(self, bdi: str, kind: Kind, mount: Mount) -> Backing:
        return Backing(bdi, kind, mount.source or mount.fs_type, identity=f"{mount.source} {bdi}")

    def _unnamed(self, mount: Mount, mounts: Sequence[Mount]) -> str:
        """The bdi of a file system without a disk."""
        if (self.bdi / mount.device).is_dir():
            return mount.device
        # cifs-1, smb3-2, ceph-3, 9p-4: type and a number that is seen nowhere else
        # (super_setup_bdi in fs/super.c).
        named = [p.name for p in self._children(self.bdi) if _is_numbered(p.name, mount.fs_type)]
        devices = {other.device for other in mounts if other.fs_type == mount.fs_type}
        if len(named) == len(devices) == 1:
            return named[0]
        if named:
            raise NoReadAhead(
                f"{mount.point}: there are several file systems of type {mount.fs_type}, and the"
                " kernel doesn't say which read-ahead is whose"
            )
        raise NotReadAhead(f"{mount.point} is on {mount.fs_type}, which is not read ahead")

    def _below_overlay(self, mount: Mount, mounts: Sequence[Mount], depth: int) -> Backing:
        """Files of an overlay are opened on the layer that they are in; the upper one is where new
        files land. Without one it is the first of the lower."""
        options: dict[str, str] = {}
        for option in mount.fs_options:
            name, _, value = option.partition("=")
            options.setdefault(name.rstrip("+"), value)  # lowerdir+: one layer each
        place = options.get("upperdir") or options.get("lowerdir", "").split(":")[0]
        if not place.startswith("/") or not depth:
            raise NoReadAhead(f"{mount.point}: the overlay doesn't say where its layers are")
        below = covering([m for m in mounts if m.id != mount.id], PurePosixPath(place))
        if below is None:
            raise NoReadAhead(f"{mount.point}: its layer {place} is on no mount of the list")
        return self._backing(below, mounts, depth - 1)

    def _of_btrfs(self, mount: Mount) -> Backing:
        """btrfs has one bdi for all its disks; sysfs links it from the file system's folder."""
        source = PurePosixPath(mount.source).name
        names = {source, *(disk.name for disk in self._mapped(source))}
        for folder in self._children(self._sys / "fs/btrfs"):
            here = {disk.name for disk in self._children(folder / "devices")}
            link = folder / "bdi"
            if here & names and link.is_symlink():
                members = self._members(folder / "devices", (), _DEEPEST)
                return Backing(
                    link.readlink().name,
                    Kind.DISK,
                    mount.source,
                    model=_common(members),
                    identity=folder.name,
                    layers=tuple(members),
                )
        raise NoReadAhead(f"{mount.point}: sysfs doesn't know the btrfs on {mount.source}")

    def _members(self, folder: Path, mounts: Sequence[Mount], depth: int) -> list[Backing]:
        """The disks that a folder links to, but for those that were pulled."""
        devices = [_text(link / "dev") for link in self._children(folder)]
        return [self._of_disk(self._disk(each), mounts, depth) for each in devices if each]

    def _mapped(self, name: str) -> Iterator[Path]:
        """The disk that device-mapper calls so."""
        for disk in self._children(self._sys / "block"):
            if _text(disk / "dm/name") == name:
                yield disk

    def _disk(self, device: str) -> Path:
        """The folder in sysfs of the disk with this number, or of which that is a partition."""
        folder = (self._sys / "dev/block" / device).resolve()
        return folder.parent if (folder / "partition").exists() else folder

    def _of_disk(self, disk: Path, mounts: Sequence[Mount], depth: int) -> Backing:
        link = disk / "bdi"
        bdi = link.readlink().name if link.is_symlink() else _text(disk / "dev")
        layers: list[Backing] = []
        if depth:
            layers += self._members(disk / "slaves", mounts, depth - 1)
            file = _text(disk / "loop/backing_file")
            below = covering(mounts, PurePosixPath(file)) if file.startswith("/") else None
            if below is not None:
                with suppress(NoReadAhead):  # a file in memory
                    layers.append(self._backing(below, mounts, depth - 1))
        vendor, model = _text(disk / "device/vendor"), _text(disk / "device/model")
        # NVMe and SCSI disks have a model; what virtio calls its vendor is a number.
        own = f"{vendor} {model}".strip() if model and not vendor.startswith("0x") else model
        return Backing(
            bdi,
            Kind.DISK,
            disk.name,
            model=own or _common(layers),
            identity=_identity(disk),
            layers=tuple(layers),
        )

    def identity(self, bdi: str, mounts: Sequence[Mount]) -> str | None:
        """The identity of what has this bdi now; None: nothing has."""
        if (self._sys / "dev/block" / bdi).exists():
            return _identity(self._sys / "dev/block" / bdi)
        for folder in self._children(self._sys / "fs/btrfs"):
            link = folder / "bdi"
            if link.is_symlink() and link.readlink().name == bdi:
                return folder.name
        for mount in mounts:
            with suppress(NoReadAhead, OSError):
                if (found := self.backing(mount, mounts)).bdi == bdi:
                    return found.identity
        return None

    def queue(self, backing: Backing, name: str) -> int | None:
        """A number of a disk's queue, such as `max_sectors_kb`; None: it has none."""
        if backing.kind is not Kind.DISK:  # its name is any text
            return None
        found = _text(self._sys / "block" / backing.name / "queue" / name)
        return int(found) if found.isdecimal() else None

    def read_ahead_kb(self, bdi: str) -> int:
        """How much a bdi reads ahead, in KiB.

        Raises:
            OSError: it is gone.
        """
        return int((self.bdi / bdi / "read_ahead_kb").read_text())

    @staticmethod
    def _children(folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError:
            return []


def _text(path: Path) -> str:
    """What an attribute says; empty where it isn't there, or its device has just gone."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _identity(disk: Path) -> str:
    return _text(disk / "diskseq") or _text(disk / "device/serial") or _text(disk / "size")


def _common(layers: Sequence[Backing]) -> str:
    models = {layer.model for layer in layers}
    return models.pop() if len(models) == 1 else ""


def _is_numbered(bdi: str, fs_type: str) -> bool:
    kind, _, number = bdi.rpartition("-")
    return kind == fs_type and number.isdecimal()


def _kind(fs_type: str) -> Kind:
    if fs_type.startswith("fuse"):
        return Kind.FUSE
    return Kind.NETWORK if fs_type.startswith(_NETWORK) else Kind.OTHER
