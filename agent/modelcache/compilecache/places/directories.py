"""file:///path: a directory that nodes share (NFS, EFS, Filestore), or of this machine.

A bundle is made whole below `.staging`, and renamed into its place: nobody ever sees half of one,
and of two publishers of the same bundle the second finds the name taken. A rename within one
directory tree is atomic for all clients of an NFS server, too.

Whoever shares the directory may put a link in the place of any name in it, at any moment. So what
is written or removed is reached by descriptors of directories, which no link was followed to.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from modelcache.api import SourceURI
from modelcache.compilecache.bundles.local import (
    ARCHIVE_NAMES,
    ENVELOPE_NAME,
    LocalBundle,
    archive_name,
)
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES, Archive
from modelcache.compilecache.places.protocol import (
    MAX_NAMES,
    Placed,
    folder_of,
    is_hex,
    newest_first,
)
from modelcache.compilecache.places.staging import (
    STAGING,
    envelope_in,
    fill,
    kept,
    made,
    move_in,
    new_folder,
    put_aside,
    sweep,
)
from modelcache.compilecache.places.whole import require_whole
from modelcache.errors import (
    AuthFailed,
    BrokenBundle,
    InsufficientDisk,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    UnsafePath,
)
from modelcache.origins.file import Bounds
from modelcache.origins.protocol import LocalLocation
from modelcache.store.durable import Durable
from modelcache.transfer.cancelling import Cancel

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DirectoryPlace:
    """A directory. It has to be there: one that is made may lie below a mount that is missing."""

    def __init__(self, uri: SourceURI, *, within: tuple[Path, ...] | None, forbidden: Path) -> None:
        """Look at nothing yet.

        Args:
            uri: `file:///path`.
            within: the directories that may be used; None for any.
            forbidden: the cache itself.
        """
        self._uri = uri
        self._within = within
        self._forbidden = forbidden

    @property
    def uri(self) -> str:
        """The place's URI."""
        return str(self._uri)

    @property
    def host(self) -> str:
        """None is asked."""
        return ""

    def publish(self, bundle: LocalBundle, cancel: Cancel | None = None) -> bool:
        """Copy a bundle there. See `Place.publish`."""
        cancel = cancel or Cancel()
        statement = bundle.statement
        folder = folder_of(statement.key.digest, statement.digest)
        with self._written() as root:
            if envelope_in(root / folder) is not None:
                return False
            require_whole(bundle, cancel)
            with made(root, STAGING) as staging:
                durable = Durable(staging)
                staged = new_folder(staging, ".new")
                try:
                    sweep(staging, staged)
                    fill(durable, staged, bundle, cancel)
                    return move_in(durable, root, staged, folder)
                finally:
                    shutil.rmtree(staged, ignore_errors=True)

    def generations(self, key: str, most: int = MAX_NAMES) -> tuple[Placed, ...]:
        """The bundles of a key. See `Place.generations`."""
        if not is_hex(key):
            return ()
        root = self._root()
        found = [self._placed(root, key, name) for name in _names(root / key)]
        return newest_first([placed for placed in found if placed is not None])[:most]

    def keys(self) -> tuple[str, ...]:
        """The keys. See `Place.keys`."""
        root = self._root()
        with _reading(str(root)):
            return tuple(sorted(key for key in _names(root) if _has_any(root / key)))

    def find(self, digest: str, key: str = "") -> Placed | None:
        """The bundle of a digest. See `Place.find`."""
        name = digest.removeprefix("sha256:")
        if not is_hex(name):
            return None
        root = self._root()
        for each in [key] if is_hex(key) else _names(root):
            if (placed := self._placed(root, each, name)) is not None:
                return placed
        return None

    def envelope(self, placed: Placed) -> bytes:
        """The envelope. See `Place.envelope`."""
        location = self._located(placed, ENVELOPE_NAME)
        if location.size > MAX_ENVELOPE_BYTES:
            raise BrokenBundle(f"{location.path} is longer than any envelope: remove the bundle")
        fd = location.open()
        with os.fdopen(fd, "rb") as file, _reading(location.path):
            return file.read(MAX_ENVELOPE_BYTES)

    def locate(self, placed: Placed, archive: Archive) -> LocalLocation:
        """The archive's path, to be opened with `LocalLocation.open`."""
        location = self._located(placed, archive_name(archive))
        if location.size != archive.size:
            raise BrokenBundle(
                f"{location.path} has {location.size} bytes, and its statement says {archive.size}:"
                " remove the bundle, and publish it again"
            )
        return location

    def remove(self, placed: Placed) -> None:
        """Remove a bundle: it is gone at once, its files bit by bit."""
        key, _, name = placed.folder.partition("/")
        with (
            self._written() as root,
            suppress(FileNotFoundError),
            kept(root / key) as folder,
            made(root, STAGING) as staging,
        ):
            durable = Durable(staging)
            put_aside(durable, staging, folder / name)
            durable.sync_directory(folder)
            durable.remove_if_empty(root / key)

    @contextmanager
    def _written(self) -> Iterator[Path]:
        """The root for writing: a path that leads to it whatever its name leads to by then."""
        path = self._root()
        with _writing(path), kept(path) as root:
            self._bounds().check(self._uri.path, os.readlink(root))
            yield root

    def _bounds(self) -> Bounds:
        return Bounds.of(self._uri.path, within=self._within, forbidden=self._forbidden)

    def _root(self) -> Path:
        path = self._uri.path
        bounds = self._bounds()
        with _reading(path):
            real = os.path.realpath(path)
            bounds.check(path, real)
            if not stat.S_ISDIR(os.stat(real).st_mode):
                raise NotFound(f"{path} is no directory: name one that is there for bundles")
        return Path(real)

    def _located(self, placed: Placed, name: str) -> LocalLocation:
        root = self._root()
        path = root / placed.folder / name
        with _reading(str(path)):
            found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UnsafePath(f"{path} is no regular file: remove the bundle")
        return LocalLocation(str(path), (root,), found.st_size, found.st_mtime_ns)

    def _placed(self, root: Path, key: str, name: str) -> Placed | None:
        """The bundle in a folder; None: there is none, or one that was not finished."""
        folder = root / key / name
        with _reading(str(folder)):
            envelope = envelope_in(folder)
            if envelope is None:
                return None
            sizes = [0]
            for archive in ARCHIVE_NAMES.values():
                with suppress(FileNotFoundError):
                    sizes.append(os.lstat(folder / archive).st_size)
        return Placed(f"sha256:{name}", key, _moment(envelope.st_mtime), max(sizes))


def _has_any(folder: Path) -> bool:
    return any(envelope_in(folder / name) is not None for name in _names(folder))


def _moment(seconds: float) -> datetime:
    """Of a file's time. One beyond the calendar, which anybody may set, counts as the oldest."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)


def _names(folder: Path) -> list[str]:
    """The directories in a folder that are named by a SHA-256."""
    found = []
    with _reading(str(folder)):
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        with entries:
            for number, entry in enumerate(entries):
                if number >= MAX_NAMES:
                    raise UnsafePath(f"{folder} has more than {MAX_NAMES:,} names in it")
                if is_hex(entry.name) and entry.is_dir(follow_symlinks=False):
                    found.append(entry.name)
    return found


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """A context for system calls: their errors come out as ours."""
    try:
        yield
    except OSError as error:
        raise _refused(error, path, "read") from error


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise InsufficientDisk(
                f"{root} is full: remove bundles that nobody needs any more"
            ) from error
        raise _refused(error, str(root), "written") from error


def _refused(error: OSError, path: str, done: str) -> ModelCacheError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{path} is not there: mount it, or make the directory")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        how = "readable" if done == "read" else "writable"
        return AuthFailed(
            f"{path} can't be {done} ({error.strerror}): make it {how} for this program's user or"
            " group"
        )
    # ESTALE, EIO, ETIMEDOUT: what a file server in trouble looks like from here.
    return OriginUnavailable(f"{path} can't be {done}: {error.strerror or error}")
