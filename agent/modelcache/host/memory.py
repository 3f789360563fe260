"""The memory of the machine, and how much of it this process may use.

The limit is its memory cgroup's (cgroups(7); Documentation/admin-guide/cgroup-v2.rst), or that of
one above it, as far as they are seen: a container sees its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.host.mounts import OWN_MOUNTS, Mount, read_mounts

_LIMITS: Final = {
    "cgroup": ("memory.limit_in_bytes",),
    # Beyond `high` pages are taken back just so; kubelet sets it where MemoryQoS is on.
    "cgroup2": ("memory.max", "memory.high"),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's memory, in bytes."""

    total: int
    available: int
    """What can be had without swapping (MemAvailable): all page cache that is clean counts."""
    unclaimed: int
    """What kubelet calls available, and evicts pods by: it counts page cache that was used more
    than once lately (active files) as in use."""


def machine_memory(meminfo: Path = Path("/proc/meminfo")) -> Memory:
    """What `/proc/meminfo` says; the fields are described in proc_meminfo(5).

    kubelet's figure is memory that is in use, less what the kernel calls inactive files, from all
    of it (Kubernetes, "Node-pressure eviction").

    Raises:
        OSError, ValueError: it can't be read.
    """
    found = {}
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    try:
        return Memory(
            total=found["MemTotal"],
            available=found["MemAvailable"],
            unclaimed=found["MemFree"] + found["Inactive(file)"],
        )
    except KeyError as error:
        raise ValueError(f"{meminfo} has no {error}") from error


def memory_limit(
    *, cgroups: Path = Path("/proc/self/cgroup"), mountinfo: Path = OWN_MOUNTS
) -> int | None:
    """The least limit on memory that this process is under, in bytes; None: there is none."""
    try:
        found = list(_limits(cgroups.read_text(), read_mounts(mountinfo)))
        most = machine_memory().total
    except (OSError, ValueError):
        return None
    # v1 writes a limit beyond all memory where there is none.
    return min((limit for limit in found if limit < most), default=None)


def _limits(cgroups: str, mounts: tuple[Mount, ...]) -> Iterator[int]:
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            if not _is_memorys(mount, v2=not controllers):
                continue
            try:
                below = PurePosixPath(path).relative_to(mount.root)
            except ValueError:
                # Seen from outside of it, as through a bind mount of the host's.
                below = PurePosixPath()
            for folder, name in product((below, *below.parents), _LIMITS[mount.fs_type]):
                limit = _read(Path(mount.point / folder / name))
                if limit is not None:
                    yield limit


def _is_memorys(mount: Mount, *, v2: bool) -> bool:
    if v2:
        return mount.fs_type == "cgroup2"
    return mount.fs_type == "cgroup" and "memory" in mount.fs_options


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None
