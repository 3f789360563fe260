"""Opening files of strangers: regular ones, and nothing that leads elsewhere or never ends."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from modelcache.errors import BrokenBundle, NotFound


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """A file for reading, unbuffered. The path's last component is no link.

    Raises:
        NotFound: it is not there.
        BrokenBundle: it is a link, a fifo, a device or a directory.
        OSError
    """
    try:
        # O_NONBLOCK: a fifo is opened at once, and then refused.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"there is no {path.name} in {path.parent}") from error
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BrokenBundle(f"{path} is not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BrokenBundle(f"{path} is not a regular file")
        file = os.fdopen(fd, "rb", buffering=0, closefd=False)
        yield cast(BinaryIO, file)
    finally:
        os.close(fd)
