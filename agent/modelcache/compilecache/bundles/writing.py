"""Writing files below a new directory, through descriptors: nothing follows a link.

Until all of it is there nobody but this process's user may look into the directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from modelcache.compilecache.bundles.manifest import BundleFile
from modelcache.compilecache.trees.copying import FOLDER_MODE, Owner
from modelcache.compilecache.trees.opening import FOLDER
from modelcache.store.durable import disk_errors


class Writer:
    """A new directory with files; it is gone again where the block ends in an error."""

    def __init__(self, into: Path, owner: Owner | None) -> None:
        self._into = into
        self._owner = owner
        self._names: list[str] = []
        """The directory that is being filled."""
        self._folders: list[int] = []
        """Its descriptor, and before it those of all that it lies in."""
        self._made: set[str] = set()

    def __enter__(self) -> Self:
        self._parent = os.open(self._into.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with disk_errors():
                os.mkdir(self._into.name, 0o700, dir_fd=self._parent)
            self._folders.append(os.open(self._into.name, FOLDER, dir_fd=self._parent))
        except BaseException:
            os.close(self._parent)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException:
            self._remove()
            raise
        else:
            if error is not None:
                self._remove()
        finally:
            for fd in (*self._folders, self._parent):
                os.close(fd)

    @contextmanager
    def file(self, file: BundleFile) -> Iterator[Callable[[bytes], None]]:
        """Make one file, and the directories that it lies in. It gives what takes its bytes.

        Raises:
            InsufficientDisk
            UsageError: this process may not give it to the owner.
            OSError: there is one of this name, say.
        """
        *folders, name = file.path.split("/")
        with disk_errors(file.size):
            self._go_to(folders)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=self._folders[-1])
        try:
            yield lambda block: _write(fd, block)
            os.utime(fd, ns=(file.mtime, file.mtime))
            self._hand_over(fd, file.mode)
        finally:
            os.close(fd)

    def _go_to(self, folders: list[str]) -> None:
        same = 0
        for one, other in zip(self._names, folders, strict=False):
            if one != other:
                break
            same += 1
        while len(self._names) > same:
            self._leave()
        for name in folders[same:]:
            path = "/".join((*self._names, name))
            if path not in self._made:
                os.mkdir(name, 0o700, dir_fd=self._folders[-1])
                self._made.add(path)
            self._folders.append(os.open(name, FOLDER, dir_fd=self._folders[-1]))
            self._names.append(name)

    def _leave(self) -> None:
        self._names.pop()
        fd = self._folders.pop()
        try:
            self._hand_over(fd, FOLDER_MODE)
        finally:
            os.close(fd)

    def _finish(self) -> None:
        self._go_to([])
        self._hand_over(self._folders[0], FOLDER_MODE)

    def _hand_over(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)  # afterwards only its owner may
        if self._owner is not None:
            self._owner.take(fd)

    def _remove(self) -> None:
        shutil.rmtree(self._into.name, dir_fd=self._parent)


def _write(fd: int, block: bytes) -> None:
    view = memoryview(block)
    with disk_errors():
        while view:
            view = view[os.write(fd, view) :]
