"""file:///path: directories and files of mounted file systems (NFS, EFS, Filestore, GCSFuse)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from modelcache.api import SourceURI
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    UnsafePath,
)
from modelcache.origins.names import shown
from modelcache.origins.protocol import LocalLocation, RemoteFile, Revision

MAX_ENTRIES: Final = 1_000_000
"""Directory entries in one source. A few links crosswise make a small tree endless to walk."""

_LOST_AND_FOUND = "lost+found"
_Inode = tuple[int, int]


class FileOrigin:
    """One directory, with all that is below it, or one file.

    Symbolic links are followed, as the hub layout of a mounted Hugging Face cache needs. Where
    `within` is given, all of it must really lie there, so that a catalog can't publish a token or
    /etc. The check is made here, for a message in time, and again on the open file
    (`LocalLocation.open`), for safety.
    """

    def __init__(self, uri: SourceURI, *, within: tuple[Path, ...] | None, forbidden: Path) -> None:
        """Look at nothing yet.

        Args:
            uri: what is wanted.
            within: the directories that may be read; None for any.
            forbidden: the cache itself.
        """
        self._path = uri.path
        self._within = within
        self._forbidden = forbidden

    def resolve(self) -> Revision:
        """What is there now.

        A file system has no revisions: the id is a digest over the path, size and time of each
        file. A directory `lost+found` is left out, since only root can read it.
        """
        bounds = self._bounds()
        with _reading(self._path):
            found = os.stat(self._path)
            real = os.path.realpath(self._path)
            bounds.check(self._path, real)
            if stat.S_ISDIR(found.st_mode):
                files = list(_Walk(bounds).files(self._path))
            else:
                _check_regular(self._path, found)
                files = [_remote_file(os.path.basename(self._path), self._path, real, found)]
        if not files:
            raise NotFound(f"{self._path} has no files in it")
        files.sort(key=lambda file: file.path)
        digest = sha256()
        for file in files:
            size_and_time = file.identity.rsplit(":", 3)[1:3]
            digest.update(os.fsencode("\0".join([file.path, *size_and_time])) + b"\n")
        return Revision(id=digest.hexdigest(), files=tuple(files))

    def locate(self, file: RemoteFile) -> LocalLocation:
        """The path, to be opened with `LocalLocation.open`."""
        bounds = self._bounds()
        with _reading(file.origin_path):
            found = os.stat(file.origin_path)
            real = os.path.realpath(file.origin_path)
            bounds.check(file.origin_path, real)
            _check_regular(file.origin_path, found)
        if _identity(real, found) != file.identity:
            raise OriginChanged(f"{shown(file.origin_path)} changed after it had been resolved")
        return LocalLocation(
            file.origin_path, bounds.roots or (), size=found.st_size, mtime_ns=found.st_mtime_ns
        )

    def _bounds(self) -> Bounds:
        return Bounds.of(self._path, within=self._within, forbidden=self._forbidden)


@dataclass(frozen=True)
class Bounds:
    """Where files may really lie: below one of the roots (None: anywhere), not in the cache."""

    roots: tuple[Path, ...] | None
    cache: Path

    @classmethod
    def of(cls, path: str, *, within: tuple[Path, ...] | None, forbidden: Path) -> Bounds:
        """The bounds, after a look at a path as it is written.

        That look comes first, so that the answer tells nothing of what is there.

        Args:
            path: what is wanted.
            within: the directories that may be used; None for any.
            forbidden: the cache itself.

        Raises:
            UnsafePath: the path is below none of them.
        """
        if within is None:
            return cls(None, _real(forbidden))
        wanted, roots = Path(os.path.normpath(path)), tuple(map(_real, within))
        if not any(wanted.is_relative_to(root) for root in (*within, *roots)):
            allowed = ", ".join(map(str, within)) or "none is set"
            raise UnsafePath(
                f"{shown(path)} is not below a --file-root ({allowed}): move it there, or"
                " start the agent with one"
            )
        return cls(roots, _real(forbidden))

    def check(self, path: str, real: str) -> None:
        """Check where a path really leads."""
        place = Path(real)
        if place.is_relative_to(self.cache) or self.cache.is_relative_to(place):
            raise UnsafePath(f"{shown(path)} points into the cache itself, or is around it")
        if self.roots is not None and not any(place.is_relative_to(root) for root in self.roots):
            raise UnsafePath(f"{shown(path)} leads out of the permitted --file-root directories")

    def cache_inode(self) -> _Inode | None:
        """The cache's inode, by which it is known where a bind mount gives it another path."""
        try:
            found = os.stat(self.cache)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


class _Walk:
    """One walk through a directory tree, links included."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._cache_inode = bounds.cache_inode()
        self._left = MAX_ENTRIES

    def files(self, top: str) -> Iterator[RemoteFile]:
        """All files below a directory."""
        # Each with the inodes of the directories it lies in: a link to one of those is a circle.
        waiting: list[tuple[str, str, frozenset[_Inode]]] = [("", top, frozenset())]
        while waiting:
            relative, directory, above = waiting.pop()
            with _reading(directory):
                found = os.stat(directory)
                inode = (found.st_dev, found.st_ino)
                if inode == self._cache_inode:
                    raise UnsafePath(f"{shown(directory)} is the cache itself")
                if inode in above:
                    continue
                real = os.path.realpath(directory)
                with os.scandir(directory) as entries:
                    for entry in entries:
                        self._count(top)
                        name = f"{relative}/{entry.name}" if relative else entry.name
                        with _reading(entry.path):
                            if entry.is_dir():
                                self._check_link(entry)
                                if entry.name != _LOST_AND_FOUND:
                                    waiting.append((name, entry.path, above | {inode}))
                            else:
                                yield self._file(entry, name, real)

    def _file(self, entry: os.DirEntry[str], name: str, real_parent: str) -> RemoteFile:
        self._check_link(entry)
        found = entry.stat()
        _check_regular(entry.path, found)
        real = (
            os.path.realpath(entry.path)
            if entry.is_symlink()
            else os.path.join(real_parent, entry.name)
        )
        return _remote_file(name, entry.path, real, found)

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        # What is no link lies where its directory lies, which was checked.
        if entry.is_symlink():
            self._bounds.check(entry.path, os.path.realpath(entry.path))

    def _count(self, top: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnsafePath(f"{shown(top)} has more than {MAX_ENTRIES:,} entries below it")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _remote_file(name: str, path: str, real: str, found: os.stat_result) -> RemoteFile:
    return RemoteFile(name, path, found.st_size, _identity(real, found))


def _identity(real: str, found: os.stat_result) -> str:
    return f"file:{real}:{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"


def _check_regular(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafePath(f"{shown(path)} is neither a file nor a directory (a pipe, say)")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """A context for system calls: their errors come out as ours."""
    try:
        yield
    except OSError as error:
        raise _refused(error, shown(path)) from error


def _refused(error: OSError, path: str) -> ModelCacheError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{path} is not there, or is a link to nothing")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AuthFailed(f"{path} can't be read: make it readable for the agent's user or group")
    if error.errno == errno.ELOOP:
        return UnsafePath(f"{path} is a link that leads back to itself")
    if error.errno == errno.ENAMETOOLONG:
        return UnsafePath(f"{path} is too long a path")
    # ESTALE, EIO, ETIMEDOUT, ENOTCONN: what a file server in trouble looks like from here.
    return OriginUnavailable(f"{path} can't be read: {error.strerror}")
