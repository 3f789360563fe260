"""The last gate before the disk for the names of files; and looking into directories."""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath

from modelcache.errors import UnsafePath


def relative_path(path: str) -> PurePosixPath:
    """A file's path, as long as it stays below where it is joined to.

    Origins' names were checked when they were resolved. This is for manifests and receipts too.

    Raises:
        UnsafePath
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path or "\\" in path:
        raise UnsafePath(f"{path[:200]!r} is not a path below a model's directory")
    return PurePosixPath(*parts)


def children(folder: Path) -> list[Path]:
    """What is in a directory; nothing where it is gone, since others remove directories too.

    (`Path.glob` raises FileNotFoundError for a directory that goes while it looks.)
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def age(changed: float) -> float:
    """Seconds since something was changed, of which the file system says when.

    What is ahead of the clock, which was set back since, is as old as it is ahead: else it would
    stay until the clock has come there, which may be years.
    """
    return abs(time.time() - changed)
