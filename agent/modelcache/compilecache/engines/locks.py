"""Whether another process holds a file's lock, looked at without keeping it from anyone."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_FLOCK: Final = "hhqqi"  # struct flock of fcntl(2), on 64-bit Linux


def is_locked(fd: int) -> bool:
    """Whether someone else holds an exclusive lock on an open file, by flock(2) or fcntl(2).

    flock can only be asked by taking it: a shared lock, for some microseconds, which an engine
    that tries just then waits for (filelock tries again by itself).
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    fcntl.flock(fd, fcntl.LOCK_UN)
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
