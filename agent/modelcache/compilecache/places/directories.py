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
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from modelcache.api import SourceURI
from modelcache.compilecache.bundles.local import (
    ARCHIVE_NAMES,
    ENVELOPE_NAME,
    LocalBundle,
    archive_name,
)
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES, Archive
from modelcache.compilecache.places.protocol import (
    LEFTOVER_SECONDS,
    MAX_NAMES,
    Placed,
    folder_of,
    is_hex,
    newest_first,
)
from modelcache.compilecache.places.whole import require_whole
from modelcache.compilecache.trees.opening import FOLDER
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

STAGING: Final = ".staging"
"""What is not yet whole, and what is about to go, below the place's root."""

_TRIES = 20
_BLOCK: Final = 1024 * 1024
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
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
            if _envelope(root / folder) is not None:
                return False
            require_whole(bundle, cancel)
            with _made(root, STAGING) as staging:
                durable = Durable(staging)
                staged = _staged(staging, ".new")
                try:
                    _sweep(staging, staged)
                    _fill(durable, staged, bundle, cancel)
                    return _move_in(durable, root, staged, folder)
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
            _kept(root / key) as folder,
            _made(root, STAGING) as staging,
        ):
            durable = Durable(staging)
            _put_aside(durable, staging, folder / name)
            durable.sync_directory(folder)
            durable.remove_if_empty(root / key)

    @contextmanager
    def _written(self) -> Iterator[Path]:
        """The root for writing: a path that leads to it whatever its name leads to by then."""
        path = self._root()
        with _writing(path), _kept(path) as root:
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
            envelope = _envelope(folder)
            if envelope is None:
                return None
            sizes = [0]
            for archive in ARCHIVE_NAMES.values():
                with suppress(FileNotFoundError):
                    sizes.append(os.lstat(folder / archive).st_size)
        return Placed(f"sha256:{name}", key, _moment(envelope.st_mtime), max(sizes))


@contextmanager
def _kept(path: Path) -> Iterator[Path]:
    """A directory by a path that leads to itself, whatever takes its name (proc(5), /proc/pid/fd).

    Raises:
        UnsafePath: it is a link.
        OSError
    """
    try:
        fd = os.open(path, FOLDER)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise UnsafePath(f"{_shown(path)} is a link, where a place has a directory") from error
        raise
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@contextmanager
def _made(root: Path, name: str) -> Iterator[Path]:
    """As `_kept`, of a directory in a root that is made where there is none."""
    with suppress(FileExistsError):
        (root / name).mkdir()
    with _kept(root / name) as found:
        if found.stat().st_mode & 0o755 != 0o755:
            with suppress(PermissionError):
                found.chmod(0o755)
        Durable(root).sync_directory(root)
        yield found


def _fill(durable: Durable, staged: Path, bundle: LocalBundle, cancel: Cancel) -> None:
    with _kept(staged) as folder:
        with bundle.archive.open("rb") as archive:
            _write(durable, folder / bundle.archive.name, archive, cancel)
        _write(durable, folder / ENVELOPE_NAME, BytesIO(bundle.envelope_bytes), cancel)
        durable.sync_directory(folder)


def _write(durable: Durable, path: Path, content: IO[bytes], cancel: Cancel) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        while block := content.read(_BLOCK):
            cancel.check()
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        durable.sync(file.fileno())


def _move_in(durable: Durable, root: Path, staged: Path, folder: str) -> bool:
    """Rename into place; False: another was first."""
    key, _, name = folder.partition("/")
    for left in reversed(range(_TRIES)):
        try:
            with _made(root, key) as parent:
                target = parent / name
                try:
                    durable.rename(staged, target)
                    return True
                except FileNotFoundError:
                    # A client of NFS that asks again is told so of what it has done itself.
                    if not staged.exists() and _envelope(target) is not None:
                        return True
                    raise
                except OSError as error:
                    if error.errno not in _TAKEN:
                        raise
                    if _envelope(target) is not None:
                        return False
                    # By hand, or by another program: a bundle without an envelope is none.
                    _put_aside(durable, staged.parent, target)
        except FileNotFoundError:
            # Or who removed the last bundle of the key has taken its folder away.
            if not left:
                raise
    raise OriginUnavailable(f"{_shown(root)}/{folder} is made and removed by others all the time")


def _put_aside(durable: Durable, staging: Path, target: Path) -> None:
    """Remove a directory: it is gone at once, its files bit by bit."""
    aside = _staged(staging, ".gone")
    try:
        with _kept(aside) as within:
            durable.rename(target, within / "bundle")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _staged(staging: Path, suffix: str) -> Path:
    path = staging / f"{secrets.token_hex(8)}{suffix}"
    path.mkdir(0o755)
    with _kept(path) as made:
        made.chmod(0o755)
    return path


def _sweep(staging: Path, newest: Path) -> None:
    """Remove what publishers left that were killed. `newest`: just made, by the server's clock."""
    now = newest.stat().st_mtime
    with suppress(PermissionError), os.scandir(staging) as entries:
        for entry in entries:
            with (
                suppress(FileNotFoundError, NotADirectoryError, UnsafePath),
                _kept(Path(entry.path)) as folder,
            ):
                times = [folder.stat().st_mtime]
                with os.scandir(folder) as inside:
                    times += [found.stat(follow_symlinks=False).st_mtime for found in inside]
                if now - max(times) >= LEFTOVER_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _shown(path: Path) -> str:
    """Where a path of `_kept` leads, for people."""
    return os.path.realpath(path.parent) + "/" + path.name


def _has_any(folder: Path) -> bool:
    return any(_envelope(folder / name) is not None for name in _names(folder))


def _envelope(folder: Path) -> os.stat_result | None:
    """What makes a folder a bundle; None: there is none, or it is a link, a fifo, a directory."""
    try:
        found = os.lstat(folder / ENVELOPE_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


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
