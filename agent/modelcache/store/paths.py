"""The last gate before the disk for the names of files; and looking into directories."""

from __future__ import annotations

import os
import time
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.errors import UnsafePath

_SHORT: Final = 63
"""No name of so many characters has more than 255 bytes."""
_MOST_NAME_BYTES: Final = 255
_MOST_PATH_BYTES: Final = 2048
"""NAME_MAX, and what leaves room for the root below PATH_MAX (limits.h)."""


def relative_path(path: str) -> PurePosixPath:
    """A file's path, as long as it stays below where it is joined to.

    Origins' names were checked when they were resolved. This is for manifests and receipts too.

    Raises:
        UnsafePath
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path or "\\" in path:
        raise UnsafePath(f"{path[:200]!r} is not a path below a model's directory")
    if len(path) > _SHORT and _is_too_long(path, parts):
        raise UnsafePath(f"{path[:200]!r} is too long a path for a file system")
    return PurePosixPath(*parts)


def _is_too_long(path: str, parts: list[str]) -> bool:
    return len(os.fsencode(path)) > _MOST_PATH_BYTES or any(
        len(os.fsencode(part)) > _MOST_NAME_BYTES for part in parts
    )


def children(folder: Path) -> list[Path]:
    """What is in a directory; nothing where it is gone, since others remove directories too.

    (`Path.glob` raises FileNotFoundError for a directory that goes while it looks.)
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def folders(folder: Path) -> list[Path]:
    """The directories in a directory. What a link leads to is somebody else's."""
    return [path for path in children(folder) if path.is_dir() and not path.is_symlink()]


def age(changed: float) -> float:
    """Seconds since something was changed, of which the file system says when.

    What is ahead of the clock, which was set back since, is as old as it is ahead: else it would
    stay until the clock has come there, which may be years.
    """
    return abs(time.time() - changed)
