"""Which blobs came here with a copied root, and were not read back since.

A line for each digest, and another that begins with `-` for each that was read back, appended. What
a power cut takes of these is read again. It goes when nothing is left.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.notes import read_note

_LINE: Final = re.compile(rb"(-?)([0-9a-f]{64})")
_NONE: Final[frozenset[str]] = frozenset()
_MOST_BYTES: Final = 256 * 1024 * 1024
"""Of four million digests. What is longer says nothing, and so everything is in doubt."""


class Unproven:
    """The list of a root. Safe for threads, and beside other processes."""

    def __init__(self, path: Path, durable: Durable) -> None:
        self._path = path
        self._durable = durable
        self._mutex = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._digests = _NONE
        self._unwritten = _NONE
        """What a full disk has no room for: as long as this process lives."""

    def all(self) -> frozenset[str]:
        """The digests.

        Raises:
            OSError: it can't be read, so that nothing is known.
        """
        with self._mutex:
            try:
                found = self._path.stat()
            except FileNotFoundError:
                self._stamp, self._digests = None, _NONE
                return self._unwritten
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if stamp != self._stamp:
                self._digests = self._read()
                self._stamp = stamp
            return self._digests | self._unwritten if self._unwritten else self._digests

    def _read(self) -> frozenset[str]:
        try:
            content = read_note(self._path, _MOST_BYTES)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(self._path)) from error
        except FileNotFoundError:
            return _NONE
        listed: set[str] = set()
        proven: set[str] = set()
        for line in content.split(b"\n"):
            match = _LINE.fullmatch(line)
            if match is not None:
                (proven if match[1] else listed).add(match[2].decode())
        return frozenset(listed - proven)

    def write(self, digests: Collection[str]) -> None:
        """List these, durably, and no others.

        Raises:
            InsufficientDisk: the disk is full; this process knows of them all the same.
        """
        if not digests:
            self._durable.unlink(self._path)
            return
        with self._mutex:
            self._unwritten = frozenset(digests)
        content = "".join(f"{digest}\n" for digest in sorted(digests)).encode()
        with disk_errors(len(content)):
            self._durable.write_file(self._path, content)
        with self._mutex:
            self._unwritten = _NONE

    def drop(self, digests: Collection[str]) -> None:
        """Take some off the list: they were read back and are whole, or they are gone.

        Raises:
            InsufficientDisk: the disk is full.
            OSError: the disk failed.
        """
        listed = self.all()
        going = listed.intersection(digests)
        with self._mutex:
            self._unwritten -= going
        if not going or not self._path.exists():
            return
        if going == listed:
            self._durable.unlink(self._path)
            return
        # It begins with a new line, so that a torn line before it is not made longer.
        lines = "".join(f"\n-{digest}\n" for digest in sorted(going)).encode()
        with disk_errors(len(lines)):
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.write(fd, lines)
            finally:
                os.close(fd)
