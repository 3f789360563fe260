"""A staging directory: what is being made there, and whose it is as long as he lives."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelcache.store.durable import disk_errors
from modelcache.store.locking import Lock, locks_work, try_lock

PREFIX: Final = "capture-"
"""Of all that is made in a staging directory."""
ABANDONED_SECONDS: Final = 86400.0
"""Where locks don't work, what is older than this is nobody's any more."""
_LOCK_SUFFIX: Final = ".lock"
_TRIAL: Final = f"{PREFIX}trial{_LOCK_SUFFIX}"


class Staged:
    """A directory in the staging that is this process's as long as it lives."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock

    def remove(self) -> None:
        """Remove it with all that is in it. Done twice it is no error."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release(remove=True)


@contextmanager
def staging(into: Path) -> Iterator[Staged]:
    """A new directory in the staging, which is made where there is none; gone after an error.

    What killed processes left there is removed.

    Raises:
        InsufficientDisk, OSError
    """
    with disk_errors():
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        clean(into)
        lock = None
        while lock is None:  # who cleans may have taken the lock file for one that was left
            folder = into / f"{PREFIX}{secrets.token_hex(8)}"
            lock = try_lock(into / f"{folder.name}{_LOCK_SUFFIX}")
        staged = Staged(folder, lock)
        try:
            folder.mkdir(mode=0o700)
        except BaseException:
            staged.remove()
            raise
    try:
        yield staged
    except BaseException:
        staged.remove()
        raise


def clean(into: Path) -> None:
    """Remove what killed processes left in a staging directory; what is in use stays.

    Raises:
        OSError: the disk fails.
    """
    names = [name for name in os.listdir(into) if name.startswith(PREFIX)]
    if not names:
        return
    reliable = locks_work(into / _TRIAL)
    (into / _TRIAL).unlink(missing_ok=True)
    for stem in sorted({name.removesuffix(_LOCK_SUFFIX) for name in names}):
        folder = into / stem
        if reliable or _is_old(folder):
            lock = try_lock(into / f"{stem}{_LOCK_SUFFIX}")
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release(remove=True)


def _is_old(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > ABANDONED_SECONDS
