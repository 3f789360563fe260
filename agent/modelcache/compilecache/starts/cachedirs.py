"""The cache directory of a start that this program makes itself: one start at a time has it.

Engines note absolute paths, so all starts have the same directory, and what an earlier one left is
still in it: from the same bundle, from an older one, or for another key. What this program made may
be emptied by it, and nothing else: a directory that had something in it before is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.compilecache.bundles.checking import RESERVED
from modelcache.compilecache.starts.seednotes import NOTE_NAME, read_note
from modelcache.errors import ModelCacheError, UsageError
from modelcache.store.durable import disk_errors

_MARKER: Final = f"{RESERVED}run.json"
_MAX_BYTES: Final = 4096
_NOT_CONTENT: Final = ("lost+found",)  # of a fresh ext4


class Taken(ModelCacheError):
    """The cache directory can't be used by this start: it is another's."""


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """A cache directory that this process has for itself."""

    path: Path
    _marker: int

    def prepare(self, key: str, digest: str | None, *, keep: bool = True) -> bool:
        """Make it empty, unless what is in it is of use.

        Args:
            key: what the start is for, 64 hex digits.
            digest: the bundle that it is to be seeded from; None: there is none.
            keep: whether the start is to have what an earlier one left.

        Returns:
            Whether files of an earlier start for the same key are in it, from which no bundle is
            to be had.

        Raises:
            Taken: it has files in it that are not this program's.
            InsufficientDisk: the disk is full.
        """
        content = self._content()
        if content and self._key() is None:
            some = ", ".join(ascii(name)[1:-1] for name in sorted(content)[:3])
            raise Taken(
                f"{self.path} is not empty ({some}{', …' if len(content) > 3 else ''}), and not by"
                " an earlier start with modelcache: give --cache-dir another directory"
            )
        if content and keep and self._key() == key:
            if digest is None:
                return True
            with suppress(UsageError):
                note = read_note(self.path)
                if note is not None and note.digest == digest:
                    return False  # `seed` keeps it
        self._write("")  # who is killed from here on leaves what is whole for no key
        for name in (*content, NOTE_NAME):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._write(key)
        return False

    def _content(self) -> list[str]:
        names = os.listdir(self.path)
        return [n for n in names if not n.startswith(RESERVED) and n not in _NOT_CONTENT]

    def _key(self) -> str | None:
        """What the last start was for that this program made with it."""
        try:
            found = json.loads(os.pread(self._marker, _MAX_BYTES, 0))
            return str(found["key"])
        except (ValueError, KeyError, TypeError):
            return None

    def _write(self, key: str) -> None:
        content = json.dumps({"key": key}).encode() + b"\n"
        with disk_errors():
            os.pwrite(self._marker, content, 0)
            os.ftruncate(self._marker, len(content))


@contextmanager
def taken(path: Path) -> Iterator[CacheDirectory]:
    """Have a cache directory for as long as an engine runs; it is made where there is none.

    Raises:
        Taken: another start has it, or it can't be made or written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(path / _MARKER, flags, 0o644)
    except OSError as error:
        raise Taken(
            f"{path} can't be used as the cache directory ({error.strerror or error}): give"
            " --cache-dir a directory that this user may write to"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise Taken(
                    f"another start has the cache directory {path}: give --cache-dir another one,"
                    " or start this one in a mount namespace of its own"
                ) from error
            # A file system without locks: two starts at once see each other's files.
        yield CacheDirectory(path, fd)
    finally:
        os.close(fd)
