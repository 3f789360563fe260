"""What is in a directory tree, seen through descriptors: no link is ever followed.

The tree is a running engine's. Files come and go while it is looked at, and whoever owns it may
swap a directory for a link to `/` at any moment. What vanished in between is left out; that the
tree changed shows by its next scan, whose `state` is another.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal

from modelcache.compilecache.trees.naming import MAX_PATH_BYTES, name_trouble, shown
from modelcache.errors import NotFound, TreeTooLarge

MAX_ODD: Final = 64
"""So many odd things are named; the rest is counted."""
_NAMES_PER_FILE: Final = 10
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

Oddity = Literal[
    "link", "device", "socket", "fifo", "setuid", "owner", "name", "depth", "unreadable"
]
_WHAT: Final[dict[Oddity, str]] = {
    "link": "is a symbolic link",
    "device": "is a device",
    "socket": "is a socket",
    "fifo": "is a fifo",
    "setuid": "has a setuid, setgid or sticky bit",
    "owner": "belongs to another user",
    "name": "has a name that can't be used",
    "depth": "lies too deep",
    "unreadable": "can't be read",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a tree may be: what a pod wrote has no bound of its own."""

    files: int = 200_000
    """Files that are wanted. Names altogether may be ten times as many."""
    bytes: int = 64 * 1024**3
    """Of the files that are wanted."""
    depth: int = 32
    """Directories above a file. What lies deeper is left out, and told."""
    seconds: float = 120.0
    """For looking at all of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One regular file."""

    path: str
    """Relative to the tree's root, with slashes."""
    size: int
    """Bytes."""
    mode: int
    """Permission bits."""
    mtime_ns: int
    ctime_ns: int
    uid: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Entry:
        """The entry of a file."""
        return cls(
            path=path,
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            uid=status.st_uid,
            inode=status.st_ino,
        )

    def is_same(self, status: os.stat_result) -> bool:
        """Whether this is still that regular file, and unchanged."""
        return stat.S_ISREG(status.st_mode) and Entry.of(self.path, status) == self


@dataclass(frozen=True, slots=True)
class Odd:
    """Something in a tree that is never taken into a bundle."""

    path: str
    """As it can be printed, and cut off where it is long."""
    what: Oddity

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.path} {_WHAT[self.what]}"


@dataclass(frozen=True, slots=True)
class State:
    """A tree at one moment, in short: two that are equal mean that nothing changed."""

    count: int
    """Files."""
    bytes: int
    newest_ns: int
    """The latest change of a file or of its name (mtime or ctime), in ns since 1970; 0: no file."""
    digest: str
    """32 hex digits over all entries: clocks of network file systems are coarse."""


@dataclass(frozen=True)
class Tree:
    """What a scan found."""

    entries: tuple[Entry, ...]
    """The files that are wanted, by path (in the order of code points)."""
    odd: tuple[Odd, ...] = ()
    """What would be wanted but can't be taken, at most `MAX_ODD`."""
    oddities: int = 0
    """How many odd things there are."""
    unwanted: tuple[Entry, ...] = ()
    """The other files, by path: locks, temporaries, what is not to be shared."""

    @property
    def bytes(self) -> int:
        """Bytes of the files that are wanted."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def state(self) -> State:
        """The state of what is wanted."""
        digest = blake2b(digest_size=16)
        newest = 0
        for entry in self.entries:
            newest = max(newest, entry.mtime_ns, entry.ctime_ns)
            digest.update(
                f"{entry.path}\0{entry.size} {entry.mode} {entry.mtime_ns} {entry.ctime_ns}"
                f" {entry.uid} {entry.inode}\n".encode()
            )
        return State(len(self.entries), self.bytes, newest, digest.hexdigest())


def everything(path: str) -> bool:  # noqa: ARG001 - the signature of `wanted`
    """Every file is wanted."""
    return True


def scan(
    root: Path,
    wanted: Callable[[str], bool] = everything,
    *,
    limits: Limits | None = None,
    owner: int | None = None,
) -> Tree:
    """Look at all of a directory tree. `root` itself may be reached over links.

    Args:
        wanted: whether a file is, by its path relative to the root.
        owner: the user (uid) whose files are taken; None: whoever's.

    Raises:
        NotFound: there is no such directory.
        TreeTooLarge: it has more files or bytes than the limits, or looking takes longer.
        OSError: the disk fails.
    """
    scanning = _Scan(wanted, limits or Limits(), owner)
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no directory {root}") from error
    try:
        scanning.folder(fd, "", 0)
    finally:
        os.close(fd)
    return scanning.tree()


class _Scan:
    """One scan. Each directory on the way down holds two descriptors, so depth bounds them."""

    def __init__(self, wanted: Callable[[str], bool], limits: Limits, owner: int | None) -> None:
        self._wanted = wanted
        self._limits = limits
        self._owner = owner
        self._entries: list[Entry] = []
        self._unwanted: list[Entry] = []
        self._odd: list[Odd] = []
        self._oddities = 0
        self._names = 0
        self._bytes = 0
        self._end = time.monotonic() + limits.seconds

    def tree(self) -> Tree:
        path = attrgetter("path")
        return Tree(
            entries=tuple(sorted(self._entries, key=path)),
            odd=tuple(sorted(self._odd, key=path)),
            oddities=self._oddities,
            unwanted=tuple(sorted(self._unwanted, key=path)),
        )

    def folder(self, fd: int, path: str, depth: int) -> None:
        with os.scandir(fd) as names:
            for name in names:
                self._count()
                try:
                    self._look(fd, name, f"{path}{name.name}", depth)
                except PermissionError:
                    self._note(f"{path}{name.name}", "unreadable")
                except OSError as error:
                    if error.errno not in _GONE:
                        raise

    def _look(self, parent: int, name: os.DirEntry[str], path: str, depth: int) -> None:
        status = name.stat(follow_symlinks=False)
        if name_trouble(name.name) is not None or _too_long(path):
            self._note(path, "name")
        elif stat.S_ISDIR(status.st_mode):
            self._go_into(parent, name.name, path, depth + 1)
        elif not self._wanted(path):
            if stat.S_ISREG(status.st_mode):
                self._unwanted.append(Entry.of(path, status))
        elif (what := self._oddity(status)) is not None:
            self._note(path, what)
        else:
            self._take(Entry.of(path, status))

    def _go_into(self, parent: int, name: str, path: str, depth: int) -> None:
        if depth > self._limits.depth:
            self._note(path, "depth")
            return
        fd = os.open(name, _FOLDER, dir_fd=parent)
        try:
            self.folder(fd, f"{path}/", depth)
        finally:
            os.close(fd)

    def _oddity(self, status: os.stat_result) -> Oddity | None:
        kinds: dict[int, Oddity] = {
            stat.S_IFLNK: "link",
            stat.S_IFBLK: "device",
            stat.S_IFCHR: "device",
            stat.S_IFSOCK: "socket",
            stat.S_IFIFO: "fifo",
        }
        if not stat.S_ISREG(status.st_mode):
            return kinds.get(stat.S_IFMT(status.st_mode), "device")
        if self._owner is not None and status.st_uid != self._owner:
            return "owner"
        return "setuid" if status.st_mode & _SPECIAL else None

    def _take(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._bytes += entry.size
        limits = self._limits
        if len(self._entries) > limits.files:
            raise TreeTooLarge(f"the tree has more than {limits.files} files")
        if self._bytes > limits.bytes:
            raise TreeTooLarge(f"the tree has more than {limits.bytes} bytes")

    def _note(self, path: str, what: Oddity) -> None:
        self._oddities += 1
        if len(self._odd) < MAX_ODD:
            self._odd.append(Odd(shown(path), what))

    def _count(self) -> None:
        self._names += 1
        limits = self._limits
        if self._names > limits.files * _NAMES_PER_FILE:
            raise TreeTooLarge(f"the tree has more than {self._names - 1} names")
        if self._names % 256 == 0 and time.monotonic() > self._end:
            raise TreeTooLarge(f"looking at the tree took longer than {limits.seconds:g} s")


def _too_long(path: str) -> bool:
    return len(path) * 4 > MAX_PATH_BYTES and len(os.fsencode(path)) > MAX_PATH_BYTES
