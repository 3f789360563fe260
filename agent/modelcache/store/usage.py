"""What a root takes of its file system: blocks and inodes, counted as `du` counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512
"""The unit of `st_blocks`, whatever the file system's own (stat(2))."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is taken: `bytes` in whole blocks, and `inodes`."""

    bytes: int = 0
    inodes: int = 0


def measure_usage(root: Path) -> Usage:
    """What all below a root takes, the root itself included; each inode counts once.

    Nothing is followed out of the root, neither by a link nor into another file system. What goes
    while it is looked at may count or not; what can't be read doesn't count.
    """
    found = root.lstat()
    taken, inodes = found.st_blocks * _BLOCK, 1
    shared: set[int] = set()
    folders = [str(root)]
    while folders:
        for entry in _entries(folders.pop()):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_dev != found.st_dev:
                continue
            folder = entry.is_dir(follow_symlinks=False)
            if status.st_nlink > 1 and not folder:
                if status.st_ino in shared:
                    continue
                shared.add(status.st_ino)
            taken += status.st_blocks * _BLOCK
            inodes += 1
            if folder:
                folders.append(entry.path)
    return Usage(taken, inodes)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as found:
        yield from found
