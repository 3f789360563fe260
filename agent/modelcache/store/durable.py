"""Every durable write of the store, in one small class.

What a file system promises: `fsync` of a file makes its content survive a power cut, and `fsync` of
a directory makes the names in it survive. `rename` and `link` are atomic for whoever looks on, but
without the directory's fsync they may be undone by a power cut. What `fsync` can't promise: a drive
that lies about its cache, and, after an fsync that failed, anything at all about that file (Linux
drops the dirty pages; https://wiki.postgresql.org/wiki/Fsync_Errors). So a failed fsync is an error
that throws the file away, never one to try again.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelcache.errors import InsufficientDisk

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def disk_errors(needed: int = 0) -> Iterator[None]:
    """Writes of so many bytes: where they fail because the disk is full, the error is ours.

    Raises:
        InsufficientDisk
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise InsufficientDisk(
            f"the disk filled up{f' while {needed} bytes were being written' if needed else ''}:"
            " free some space, or evict a model (modelcache evict NAME)",
            needed=needed,
        ) from error


class Durable:
    """Durable writes within one file system.

    `scratch` is a directory of that file system for names that are not yet to be seen; what a crash
    leaves there may be removed by anyone.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count()

    def temporary(self, suffix: str = "") -> Path:
        """A name in the scratch directory that nobody else uses."""
        return self._scratch / f"{self._token}-{next(self._numbers)}{suffix}"

    def sync(self, fd: int) -> None:
        """Make the content of an open file survive a power cut."""
        os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory survive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_tree(self, path: Path) -> None:
        """Make the names in a directory and in all below it survive a power cut."""
        for folder, _, _ in os.walk(path):
            self.sync_directory(Path(folder))

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents, readable for all whatever the umask is."""
        missing = []
        folder = path
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            folder.chmod(0o755)
            self.sync_directory(folder.parent)
        if not missing and path.stat().st_mode & 0o755 != 0o755:
            # A crash came between its making and the change of its mode.
            with suppress(PermissionError):
                path.chmod(0o755)

    def write_file(self, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        """Write a whole file; who looks sees the old content or the new, also after a power cut."""
        temporary = self.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            self.sync(fd)
            self.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def link(self, source: Path, target: Path) -> bool:
        """Link a file under a second name, unless that name is taken.

        The caller syncs the target's directory, once for all its links.

        Returns:
            Whether the link was made.
        """
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        return True

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing a file that has the target's name, and sync the target's directory."""
        os.rename(source, target)
        self.sync_directory(target.parent)

    def put_directory(self, source: Path, target: Path) -> None:
        """Rename a directory into place; one that lies there already is then at `source`."""
        while True:
            try:
                self.rename(source, target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            try:
                self.exchange(source, target)
                return
            except FileNotFoundError:
                continue  # another process has just removed it

    def exchange(self, one: Path, other: Path) -> None:
        """Swap two names atomically (renameat2(2), RENAME_EXCHANGE)."""
        if _libc.renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        ):
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(number, os.strerror(number), str(other))
            # A file system without it (ZFS before 2.2): for a moment nothing has the name.
            aside = self.temporary(".swap")
            os.rename(other, aside)
            os.rename(one, other)
            os.rename(aside, one)
        self.sync_directory(other.parent)

    def symlink(self, target: str, path: Path) -> None:
        """Make a symbolic link, or point the one that is there elsewhere, atomically."""
        temporary = self.temporary(".link")
        os.symlink(target, temporary)
        try:
            self.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def unlink(self, path: Path) -> None:
        """Remove a name for good. One that is not there is no error."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        self._sync_removal(path)

    def _sync_removal(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # its directory was removed after it
            self.sync_directory(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all below it: it is gone at once, its content bit by bit."""
        trash = self.temporary(".trash")
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            trash = path  # no room for another name: it goes where it is
        self._sync_removal(path)
        shutil.rmtree(trash, ignore_errors=True)

    def remove_if_empty(self, path: Path) -> None:
        """Remove a directory that has nothing in it."""
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                raise
