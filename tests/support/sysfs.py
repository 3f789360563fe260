"""A small sysfs and a mountinfo, for machines that are not here.

Paths, links and attributes are those of the kernel (Linux 6.x); only what is read is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelcache.host.backing import Host

USUAL_KB = 128
"""VM_READAHEAD_PAGES, include/linux/mm.h."""


class Machine:
    """Disks, file systems and mounts, put together one by one."""

    def __init__(self, folder: Path) -> None:
        self.sys = folder / "sys"
        self.mountinfo = folder / "mountinfo"
        self.mountinfo.touch()
        self._mounts = 0
        self._disks = 0
        for name in ("dev/block", "class/block", "class/bdi", "block", "fs/btrfs"):
            (self.sys / name).mkdir(parents=True)
        (self.sys / "devices/virtual/bdi").mkdir(parents=True)

    @property
    def host(self) -> Host:
        """What is tested, of this machine."""
        return Host(sys=self.sys, mountinfo=self.mountinfo)

    def bdi(self, name: str, kib: int = USUAL_KB) -> Path:
        """A backing-device info; its `read_ahead_kb`."""
        folder = self.sys / "devices/virtual/bdi" / name
        folder.mkdir()
        (folder / "read_ahead_kb").write_text(f"{kib}\n")
        self._link(self.sys / "class/bdi" / name, folder)
        return folder / "read_ahead_kb"

    def disk(
        self,
        path: str,
        number: str,
        *,
        kib: int = USUAL_KB,
        device: Mapping[str, str] | None = None,
        queue: Mapping[str, int] | None = None,
        slaves: Sequence[str] = (),
        partitions: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """A disk at `path` below `/sys/devices`, whose last part is its name.

        Args:
            path: as `pci0000:00/0000:00:1f.0/nvme/nvme1/nvme1n1`.
            number: major:minor.
            kib: its read-ahead.
            device: attributes of what it is on: a controller, a SCSI device.
            queue: attributes of its queue.
            slaves: names of the disks and partitions that it is made of.
            partitions: name and number of each.
            attributes: others, by their path below the disk.
        """
        self._disks += 1
        folder = self.sys / "devices" / path
        self.bdi(number, kib)
        self._block(folder, number)
        self._link(self.sys / "block" / folder.name, folder)
        self._link(folder / "bdi", self.sys / "devices/virtual/bdi" / number)
        _write(folder, {"size": "3750748848", "diskseq": str(self._disks), **(attributes or {})})
        _write(folder / "queue", {name: str(value) for name, value in (queue or {}).items()})
        if device is not None:
            # A controller's folder holds its disks; a SCSI device's holds a folder `block` of them.
            parent = folder.parent.parent if folder.parent.name == "block" else folder.parent
            self._link(folder / "device", parent)
            _write(parent, device)
        for name, each in (partitions or {}).items():
            self._block(folder / name, each)
            _write(folder / name, {"partition": "1"})
        (folder / "slaves").mkdir()
        for name in slaves:
            self._link(folder / "slaves" / name, (self.sys / "class/block" / name).resolve())

    def btrfs(self, uuid: str, bdi: str, *disks: str) -> None:
        """A btrfs that is mounted, on some disks or partitions."""
        self.bdi(bdi)
        folder = self.sys / "fs/btrfs" / uuid
        (folder / "devices").mkdir(parents=True)
        self._link(folder / "bdi", self.sys / "devices/virtual/bdi" / bdi)
        for name in disks:
            target = (self.sys / "class/block" / name).resolve()
            self._link(folder / "devices" / name, target)

    def mount(
        self,
        device: str,
        point: str,
        fs_type: str,
        source: str,
        *options: str,
        root: str = "/",
        on: int | None = None,
    ) -> int:
        """A mount, on another or on that of `/` or the first there is; its id."""
        self._mounts += 1
        parent = on or (20 if self._mounts > 1 else 1)
        line = f"{19 + self._mounts} {parent} {device} {root} {point} rw,relatime shared:1"
        options = options or ("rw",)
        with self.mountinfo.open("a") as file:
            file.write(f"{line} - {fs_type} {source} {','.join(options)}\n")
        return 19 + self._mounts

    def pull(self, name: str) -> None:
        """A disk that is gone without being unmounted: what links to it leads nowhere."""
        folder = (self.sys / "class/block" / name).resolve()
        folder.rename(folder.with_name(f"{name}-pulled"))

    def unmount(self, point: str) -> None:
        """Take it out of the list."""
        lines = self.mountinfo.read_text().splitlines(keepends=True)
        self.mountinfo.write_text("".join(each for each in lines if each.split()[4] != point))

    def _block(self, folder: Path, number: str) -> None:
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        self._link(self.sys / "dev/block" / number, folder)
        self._link(self.sys / "class/block" / folder.name, folder)

    def _link(self, link: Path, target: Path) -> None:
        """Relative, as those of the kernel are: sysfs may be mounted anywhere."""
        link.symlink_to(os.path.relpath(target, link.parent))


def _write(folder: Path, attributes: Mapping[str, str]) -> None:
    for name, text in attributes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
