"""Whether anybody has read what was seeded: seen by the files' access times.

A start that wrote nothing new either had all that it needed, or looked elsewhere. With `relatime`,
Linux's default since 2.6.30, the first read after a change of the file is noted (mount(8)): the
access time is then younger than the file's last change, which was its seeding. What is read through
a mount that is read-only, as the sidecar's own, is not noted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from modelcache.compilecache.bundles.manifest import BundleFile


def files_read(cache_dir: Path, seeded: Iterable[BundleFile]) -> int | None:
    """How many of the seeded files were read since; None: the file system doesn't note it."""
    if os.statvfs(cache_dir).f_flag & os.ST_NOATIME:
        return None
    read = 0
    for file in seeded:
        try:
            status = os.lstat(cache_dir / file.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        read += status.st_atime_ns > status.st_ctime_ns
    return read
