"""Copying a scanned tree: by reflink where the file system can, and through descriptors.

Neither side is ever reached over a link, and nothing that is there already is written to: a file
that has the name is another's, and an error. Copies belong to whom they are for, and keep their
times: ninja (FlashInfer's, torch's extensions) compiles again what is older or newer than it noted.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Final, Literal

from modelcache.compilecache.trees.opening import FOLDER, opened, root_folder
from modelcache.compilecache.trees.scanning import Entry, Tree
from modelcache.errors import TreeChanged, UnsafePath, UsageError
from modelcache.store.durable import disk_errors
from modelcache.transfer.cancelling import Cancel

FOLDER_MODE: Final = 0o755
_FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int): linux/fs.h, ioctl_ficlone(2)
_STEP_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_UNFIT: Final = (
    *(errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM),
    errno.ETXTBSY,
)
"""What the quick ways say where the file systems or a container's seccomp profile can't."""
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom files are to belong."""

    uid: int
    gid: int

    def take(self, fd: int) -> None:
        """Make an open file or directory this owner's.

        Raises:
            UsageError: this process may not.
        """
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) == (self.uid, self.gid):
            return
        try:
            os.fchown(fd, self.uid, self.gid)
        except PermissionError as error:
            raise UsageError(
                f"this process (user {os.geteuid()}) may not give files to {self.uid}:{self.gid}:"
                " run it as that user, or as root"
            ) from error


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied."""

    files: int
    bytes: int
    how: Literal["reflink", "copy"]
    """reflink: all files share their blocks with the sources' until one of them is written to."""


def plain_mode(mode: int) -> int:
    """The permissions of a copy: 0755 for what its owner may execute, else 0644."""
    return 0o755 if mode & 0o100 else 0o644


def copy_tree(
    source: Path,
    tree: Tree,
    into: Path,
    *,
    owner: Owner | None = None,
    cancel: Cancel | None = None,
) -> Copied:
    """Copy the wanted files of a tree, as it was scanned. What was made is removed on failure.

    Args:
        source: the directory that was scanned.
        into: a directory, which is made where there is none; its parent has to be there.
        owner: to whom the copies are to belong; None: to this process's user.
        cancel: stops it.

    Raises:
        TreeChanged: a file changed, or went, meanwhile.
        UnsafePath: there is something with the name of what was to be made, or `into` is a link.
        InsufficientDisk, Cancelled, UsageError
        OSError: a disk fails.
    """
    made = _make_folder(into)
    try:
        with root_folder(source) as root, _Target(into, owner, cancel or Cancel()) as target:
            if made:
                target.hand_over_root()
            for entry in tree.entries:
                target.copy(root, entry)
            return target.copied
    except BaseException:
        if made:
            shutil.rmtree(into, ignore_errors=True)
        raise


def _make_folder(path: Path) -> bool:
    with disk_errors():
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            return False
    return True


class _Target:
    """The directory that is copied into. The files come by path, so each folder is made once."""

    def __init__(self, into: Path, owner: Owner | None, cancel: Cancel) -> None:
        self._into = into
        self._owner = owner
        self._cancel = cancel
        self._made: set[str] = set()
        self._chain: list[tuple[str, int]] = []
        self._files = 0
        self._bytes = 0
        self._cloned = 0

    def __enter__(self) -> _Target:
        try:
            self._root = os.open(self._into, FOLDER)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise UnsafePath(f"{self._into} is not a directory of its own") from error
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with ExitStack() as closing:
            closing.callback(os.close, self._root)
            for _, fd in self._chain:
                closing.callback(os.close, fd)
            if error is not None:
                for name in self._made:
                    _remove(name, self._root)

    @property
    def copied(self) -> Copied:
        how: Literal["reflink", "copy"] = (
            "reflink" if self._files and self._cloned == self._files else "copy"
        )
        return Copied(self._files, self._bytes, how)

    def hand_over_root(self) -> None:
        self._hand_over(self._root, FOLDER_MODE)

    def copy(self, root: int, entry: Entry) -> None:
        self._cancel.check()
        *folders, name = entry.path.split("/")
        with opened(root, entry) as source, disk_errors(entry.size):
            folder = self._go_to(folders)
            with self._untaken(entry.path):
                fd = os.open(name, _NEW, 0o600, dir_fd=folder)
            try:
                self._made.add(entry.path.partition("/")[0])
                self._fill(source, fd, entry)
                self._hand_over(fd, plain_mode(entry.mode))
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
        self._files += 1
        self._bytes += entry.size

    def _fill(self, source: int, fd: int, entry: Entry) -> None:
        if clone(source, fd):
            self._cloned += 1
        elif not copy_bytes(source, fd, entry.size, self._cancel):
            raise TreeChanged(f"{entry.path} became shorter while it was read: try again later")

    def _go_to(self, folders: list[str]) -> int:
        """The descriptor of a folder below the root, made where it is the next one."""
        same = 0
        while same < min(len(folders), len(self._chain)) and folders[same] == self._chain[same][0]:
            same += 1
        for _, fd in self._chain[same:]:
            os.close(fd)
        del self._chain[same:]
        for number in range(same, len(folders)):
            name, above = folders[number], self._chain[-1][1] if self._chain else self._root
            with self._untaken("/".join(folders[: number + 1])):
                os.mkdir(name, 0o700, dir_fd=above)
            self._made.add(folders[0])
            fd = os.open(name, FOLDER, dir_fd=above)
            self._chain.append((name, fd))
            self._hand_over(fd, FOLDER_MODE)
        return self._chain[-1][1] if self._chain else self._root

    @contextmanager
    def _untaken(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            raise UnsafePath(
                f"{self._into}/{path} is there already: nothing is put over it"
            ) from error

    def _hand_over(self, fd: int, mode: int) -> None:
        if self._owner is not None:
            self._owner.take(fd)
        os.fchmod(fd, mode)


def clone(source: int, target: int) -> bool:
    """Share a file's blocks with another, empty one, both open; False: that can't be done here.

    Btrfs, XFS, bcachefs and others can, within one file system (ioctl_ficlone(2)).
    """
    try:
        ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _UNFIT:
            raise
        return False
    return True


def copy_bytes(source: int, target: int, size: int, cancel: Cancel) -> bool:
    """Copy so many bytes from where two open files are, in the quickest way that works.

    copy_file_range(2) lets the file system do it (NFS 4.2: the server); sendfile(2) keeps the bytes
    in the kernel; the last way always works.

    Returns:
        Whether there were so many.
    """
    for step in (_range_step, _sendfile_step, _plain_step):
        while size:
            cancel.check()
            try:
                done = step(source, target, min(size, _STEP_BYTES))
            except OSError as error:
                if error.errno not in _UNFIT or step is _plain_step:
                    raise
                break
            if not done:
                break  # the end; or a file system that copies nothing, without a word
            size -= done
    return not size


def _range_step(source: int, target: int, size: int) -> int:
    return os.copy_file_range(source, target, size)


def _sendfile_step(source: int, target: int, size: int) -> int:
    return os.sendfile(target, source, None, size)  # None: from where it is


def _plain_step(source: int, target: int, size: int) -> int:
    block = os.read(source, min(size, _READ_BYTES))
    view = memoryview(block)
    while view:
        view = view[os.write(target, view) :]
    return len(block)


def _remove(name: str, folder: int) -> None:
    """What has a name in a folder, with all below it, following no link."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
    except FileNotFoundError:
        return
