"""The mounts that a process sees, from `/proc/<pid>/mountinfo`, and which of them holds a path.

The format is the kernel's: Documentation/filesystems/proc.rst, 3.5, and proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

OWN_MOUNTS: Final = Path("/proc/self/mountinfo")

_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")
_FEWEST_FIELDS: Final = 6  # before the optional ones
_FIELDS_BEHIND: Final = 3  # behind the lone hyphen


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    id: int
    parent: int
    """The mount on which this one lies; the topmost has one that is not in the list."""
    device: str
    """`major:minor` of the file system, as stat's st_dev has it (btrfs: not as st_dev has it)."""
    root: PurePosixPath
    """The directory *of the file system* that is mounted: not `/` for a bind mount of a part."""
    point: PurePosixPath
    """Where it is mounted."""
    options: frozenset[str]
    """Of this mount: `ro`, `nosuid`, …"""
    fs_type: str
    """`ext4`, `tmpfs`, `fuse.gcsfuse`, …"""
    source: str
    """The device or the server; any text."""
    fs_options: tuple[str, ...]
    """Of the file system, in their order: `rw`, `size=64k`, …"""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return "ro" in self.options or "ro" in self.fs_options


def read_mounts(file: Path = OWN_MOUNTS) -> tuple[Mount, ...]:
    """The mounts of a mountinfo file.

    Raises:
        OSError: it can't be read.
        ValueError: a line is none of mountinfo.
    """
    return parse_mounts(file.read_bytes())


def parse_mounts(content: bytes) -> tuple[Mount, ...]:
    """The mounts of a mountinfo file's content, in its order.

    Raises:
        ValueError: a line is none of mountinfo.
    """
    return tuple(map(_parse, filter(None, content.split(b"\n"))))


def covering(mounts: Iterable[Mount], path: PurePosixPath) -> Mount | None:
    """The mount that holds what an absolute path leads to, without symlinks in it.

    It is looked for as the kernel does, name by name from the root: a later mount on the same
    place, or on a directory above, hides an earlier one. None: the list does not say.
    """
    places: dict[PurePosixPath, list[Mount]] = {}
    for mount in mounts:
        places.setdefault(mount.point, []).append(mount)
    found: Mount | None = None
    for place in (*reversed(path.parents), path):
        here = places.get(place, [])
        if found is None:
            # The topmost: none of the others on its place lies below it. Where `/` itself is not in
            # the list (a chroot), it is the first that there is on the way.
            ids = {mount.id for mount in here}
            found = next((mount for mount in here if mount.parent not in ids - {mount.id}), None)
            if found is None:
                continue
        # Several may be stacked on one place, each on the one before.
        while on_top := [m for m in here if m.parent == found.id and m.id != found.id]:
            found = on_top[-1]
            here = [m for m in here if m is not found]
    return found


def _parse(line: bytes) -> Mount:
    # By single spaces: a source may be empty.
    front, hyphen, behind = line.partition(b" - ")
    fields, rest = front.split(b" "), behind.split(b" ", 2)
    if not hyphen or len(fields) < _FEWEST_FIELDS or len(rest) != _FIELDS_BEHIND:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    id_, parent, device, root, point, options, *_optional = fields
    fs_type, source, fs_options = map(_plain, rest)
    return Mount(
        id=int(id_),
        parent=int(parent),
        device=device.decode("ascii"),
        root=PurePosixPath(_plain(root)),
        point=PurePosixPath(_plain(point)),
        options=frozenset(_plain(options).split(",")),
        fs_type=fs_type,
        source=source,
        fs_options=tuple(fs_options.split(",")),
    )


def _plain(field: bytes) -> str:
    r"""Without the escapes: space, tab, newline, `\` and `#` are written in three octal digits."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field))
