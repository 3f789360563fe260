"""Reading a bundle that others may want to remove: whoever reads has its envelope locked."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelcache.compilecache.bundles.local import ENVELOPE_NAME
from modelcache.errors import ModelCacheError, NotFound

_PATIENCE_SECONDS: Final = 5.0
"""A removal holds its lock for much less."""


class InUse(ModelCacheError):
    """A start is being seeded from the bundle at this moment: later."""

    retryable = True


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Read a bundle that nobody removes meanwhile; also where its root is mounted read-only.

    A lock that somebody else holds for too long is gone without: any pod that reads bundles can
    take it, and what is open stays readable.

    Raises:
        NotFound: it was just removed.
    """
    # O_NONBLOCK: on a volume of others it may be a fifo, which whoever reads it then refuses.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(directory / ENVELOPE_NAME, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{directory} has no bundle in it any more") from error
    try:
        _share(fd)
        if not os.fstat(fd).st_nlink:
            raise NotFound(f"{directory} was removed a moment ago")
        yield
    finally:
        os.close(fd)


def _share(fd: int) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return None
            time.sleep(0.02)
        except OSError:
            return None  # a file system without locks


@contextmanager
def alone(directory: Path, name: str) -> Iterator[None]:
    """Nobody reads a bundle as long as this lasts; also where it isn't there any more.

    Args:
        name: the compile cache that it is of.

    Raises:
        InUse
    """
    try:
        fd = os.open(directory / ENVELOPE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"{name}: a start is being seeded from bundle {directory.name[:12]}"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(fd)
