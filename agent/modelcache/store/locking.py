"""Who is at work on a piece of the store: a lock that a death releases.

`flock(2)` is released by the kernel when its holder dies, however it dies, which is what makes a
resume after SIGKILL immediate. Nothing relies on it for correctness: on a file system where it
silently does nothing (some network file systems) `locks_work` is False, every process keeps to
directories of its own, and a commit looks again at what it has committed. The threads of one
process are kept apart everywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

PROCESS_TOKEN = secrets.token_hex(6)
"""Tells this process from any other that works on the root."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[str] = set()
_mutex = threading.Lock()

log = structlog.get_logger(__name__)


class Lock:
    """A lock that is held."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def release(self, *, remove: bool = False) -> None:
        """Give it back; `remove` takes the lock file away with it."""
        if self._fd >= 0:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
            with _mutex:
                _held.discard(str(self._path))


def try_lock(path: Path) -> Lock | None:
    """Take the lock file at `path`, making it if need be; None when somebody holds it.

    Raises:
        FileNotFoundError: its directory is not there.
    """
    with _mutex:
        if str(path) in _held:
            return None
        _held.add(str(path))
    fd = -1
    try:
        fd = _flock(path)
    finally:
        if fd < 0:
            with _mutex:
                _held.discard(str(path))
    return Lock(fd, path) if fd >= 0 else None


def _flock(path: Path, access: int = os.O_RDONLY) -> int:
    """A descriptor that holds the lock, or -1.

    It is open for reading only, unless another access is asked for: one that is held for long must
    not keep its file system from being mounted read-only. NFS, whose flock is a lock of bytes,
    wants one open for writing (flock(2)).
    """
    while True:
        fd = os.open(path, access | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        except OSError as error:
            if error.errno == errno.EBADF and access == os.O_RDONLY:
                os.close(fd)
                access = os.O_RDWR
                continue
            if error.errno not in _NO_LOCKS:
                os.close(fd)
                raise
            # As good as a lock that does nothing: `locks_work` has found that out.
        # Its holder may have removed the file while this waited: then the lock is of no use.
        try:
            now = os.stat(path)
        except FileNotFoundError:
            os.close(fd)
            continue
        if os.path.samestat(now, os.fstat(fd)):
            return fd
        os.close(fd)


def locks_work(path: Path) -> bool:
    """Whether flock keeps two holders apart on a lock file's file system, found out by trying.

    Raises:
        OSError: it can't be written there.
    """
    first = _flock(path, os.O_RDWR)
    second = _flock(path) if first >= 0 else -1  # somebody is kept out: us
    for fd in (first, second):
        if fd >= 0:
            os.close(fd)
    return second < 0


class Turns:
    """Who changes what is shown, one at a time: threads for certain, processes if flock works.

    A process that holds the lock and hangs (on a sick disk, say) holds the others up for `patience`
    seconds; then they go on.
    """

    def __init__(self, path: Path, *, patience: float = 30.0) -> None:
        self._path = path
        self._patience = patience
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take a turn; within a turn it may be taken again."""
        with self._threads:
            lock = self._wait() if self._depth == 0 else None
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if lock is not None:
                    lock.release()

    def _wait(self) -> Lock | None:
        give_up = time.monotonic() + self._patience
        while (lock := try_lock(self._path)) is None:
            if time.monotonic() >= give_up:
                log.warning("store.lock_held", path=str(self._path), seconds=self._patience)
                return None
            time.sleep(0.02)
        return lock
