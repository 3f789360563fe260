"""Blobs: immutable content, named by its SHA-256.

A blob that has only its own name (link count 1) is in no view. One that is wrong is set aside: its
name goes, so that it is fetched again, while views that link to it are withdrawn by the caller.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from modelcache.errors import UnsafePath
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.paths import children, folders

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The content of a root."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be.

        Raises:
            UnsafePath: not 64 hex digits; so a digest from outside can't name another place.
        """
        if not _DIGEST.fullmatch(digest):
            raise UnsafePath(f"{digest[:80]!r} is not a SHA-256 in hex")
        return self._layout.blob(digest)

    def all(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Every blob that is there."""
        for folder in folders(self._layout.blobs):
            for path in children(folder):
                if _DIGEST.fullmatch(path.name):  # otherwise somebody else's
                    with suppress(FileNotFoundError):
                        yield path, path.lstat()

    def unlinked(self) -> Iterator[Path]:
        """Blobs that are in no view."""
        return (path for path, found in self.all() if found.st_nlink == 1)

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there with its size. Its content was checked before it got its name."""
        try:
            found = self.path(digest).lstat()
        except FileNotFoundError:
            return False
        return found.st_size == size and (found.st_mode & 0o170000) == 0o100000

    def link(self, digest: str, target: Path) -> None:
        """Give a blob another name inside the root. The caller syncs the directory.

        A file system limits the links of a file (ext4: 65,000): past that the content is copied.

        Raises:
            FileNotFoundError: no such blob, or no such directory.
        """
        source = self.path(digest)
        try:
            self._durable.link(source, target)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._copy(source, target)

    def adopt(self, fd: int, digest: str) -> None:
        """Make an open file a blob by one more name of it. Its content was read and has the digest.

        Raises:
            OSError: EXDEV where it is on another mount.
        """
        path = self.path(digest)
        self._durable.make_directory(path.parent)
        self._durable.sync(fd)
        with suppress(FileExistsError):
            # By its descriptor: another file may have its name by now. With a `src_dir_fd` Python
            # calls linkat(2) with AT_SYMLINK_FOLLOW, without one link(2), which follows nothing.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
        self._durable.sync_directory(path.parent)

    def _copy(self, source: Path, target: Path) -> None:
        temporary = self._durable.temporary()
        try:
            with source.open("rb") as content, temporary.open("xb") as copy:
                os.fchmod(copy.fileno(), 0o444)
                shutil.copyfileobj(content, copy, 1024 * 1024)
                copy.flush()
                self._durable.sync(copy.fileno())
            self._durable.rename(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def sync(self, digests: Iterable[str]) -> None:
        """Make the names of blobs survive a power cut."""
        for folder in {self.path(digest).parent for digest in digests}:
            self._durable.sync_directory(folder)

    def remove_unused(self, digests: Iterable[str]) -> int:
        """Remove those blobs that no view links to.

        A blob that gets a new link in between keeps its name: it is renamed first, and looked at
        again under a name that nobody can link to.

        Returns:
            Bytes that were freed.
        """
        freed = 0
        touched = set()
        for digest in set(digests):
            path = self.path(digest)
            try:
                if path.lstat().st_nlink > 1:
                    continue
                aside = self._durable.temporary(".trash")
                os.rename(path, aside)
            except FileNotFoundError:
                continue
            found = aside.lstat()
            if found.st_nlink > 1:
                self._durable.link(aside, path)
            else:
                freed += found.st_blocks * 512
            aside.unlink()
            touched.add(path.parent)
        for folder in touched:
            self._durable.sync_directory(folder)
        return freed

    def set_aside(self, digest: str) -> None:
        """Take a blob's name away, because its content is wrong."""
        self._durable.unlink(self.path(digest))
