"""Opening what lies below a directory, where another process may swap anything at any time.

A path is walked component by component from a directory's descriptor, and no link is followed, so
that nothing outside of the tree is ever opened. (openat2(2) with RESOLVE_BENEATH would do the same
in one call; Python has no name for it, and old container runtimes' seccomp profiles refuse it.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelcache.compilecache.trees.naming import name_trouble, shown
from modelcache.compilecache.trees.scanning import Entry
from modelcache.errors import TreeChanged, UnsafePath

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a fifo that took a file's place is opened at once, and then refused.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SWAPPED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)


@contextmanager
def root_folder(path: Path) -> Iterator[int]:
    """The descriptor of a tree's root. The root's own path may lead over links.

    Raises:
        OSError
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def open_below(root: int, path: str, flags: int, mode: int = 0o600) -> int:
    """Open what has a relative path below a directory. The last component is no link either.

    Raises:
        UnsafePath: the path leads elsewhere.
        OSError: ELOOP or ENOTDIR: there is a link on the way.
    """
    *folders, name = path.split("/")
    for part in (*folders, name):
        if name_trouble(part) is not None:
            raise UnsafePath(f"{shown(path)} is not a path below a directory")
    fd = root
    try:
        for folder in folders:
            inner = os.open(folder, FOLDER, dir_fd=fd)
            if fd != root:
                os.close(fd)
            fd = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
    finally:
        if fd != root:
            os.close(fd)


@contextmanager
def opened(root: int, entry: Entry) -> Iterator[int]:
    """A file of a tree for reading, the very one that was scanned, and as long as it is unchanged.

    Args:
        root: the descriptor of the directory that was scanned.

    Raises:
        TreeChanged: it is gone, or another, before the block or after it.
        OSError
    """
    try:
        fd = open_below(root, entry.path, _FILE)
    except OSError as error:
        if error.errno not in _SWAPPED:
            raise
        raise _changed(entry) from error
    try:
        if not entry.is_same(os.fstat(fd)):
            raise _changed(entry)
        yield fd
        if not entry.is_same(os.fstat(fd)):
            raise _changed(entry)
    finally:
        os.close(fd)


def _changed(entry: Entry) -> TreeChanged:
    return TreeChanged(
        f"{shown(entry.path)} changed while it was read: the engine still writes; try again when"
        " it is quiet"
    )
