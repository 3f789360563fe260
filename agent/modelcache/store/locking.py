"""Who is at work on a piece of the store: a lock that a death releases.

`flock(2)` is released by the kernel when its holder dies, however it dies, which is what makes a
resume after SIGKILL immediate. Nothing relies on it for correctness: on a file system where it
silently does nothing (some network file systems) `locks_work` is False, and every process keeps to
directories of its own.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

PROCESS_TOKEN = secrets.token_hex(6)
"""Tells this process from any other that works on the root."""


class Lock:
    """A lock that is held."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def release(self, *, remove: bool = False) -> None:
        """Give it back; `remove` takes the lock file away with it."""
        if self._fd >= 0:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def try_lock(path: Path) -> Lock | None:
    """Take the lock file at `path`, making it if need be; None when somebody holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        # Its holder may have removed the file while this waited: then the lock is of no use.
        try:
            now = os.stat(path)
        except FileNotFoundError:
            os.close(fd)
            continue
        if os.path.samestat(now, os.fstat(fd)):
            return Lock(fd, path)
        os.close(fd)


def locks_work(folder: Path) -> bool:
    """Whether flock keeps two holders apart on this file system, found out by trying."""
    path = folder / f"lock-test.{secrets.token_hex(6)}"
    first = try_lock(path)
    if first is None:
        return False
    second = try_lock(path)
    if second is not None:
        second.release()
    first.release(remove=True)
    return second is None
