"""Partial files: what has been fetched of a blob, so that no byte is fetched twice.

A partial file lies in a directory of its own with a journal that says which pieces are written,
each with its CRC32C. After SIGKILL the journal is right, because it is appended to only after the
write. After a power cut it may claim pieces that never reached the disk: the CRC tells.

One process at a time works on a partial file (`locking`). Where locks are not reliable, each
process has its own and resumes nothing of another's.
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable
from modelcache.store.locking import PROCESS_TOKEN, Lock, try_lock

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Busy(Exception):
    """Somebody else is fetching this very blob."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A written part of a partial file. `crc` is its CRC32C, or None where it isn't known yet."""

    start: int
    end: int
    crc: int | None


def blob_key(identity: str, digest: str | None) -> str:
    """What a partial file is found again by: the digest, or, without one, the identity."""
    return f"sha256-{digest}" if digest else f"id-{sha256(identity.encode()).hexdigest()[:48]}"


class Partial:
    """A partial file that is ours. Not safe for threads but for `write` and `read_into`."""

    def __init__(
        self, folder: Path, size: int, *, lock: Lock | None, durable: Durable, journaled: bool
    ) -> None:
        self.folder = folder
        self.size = size
        self.pieces: list[Piece] = []
        self._lock = lock
        self._durable = durable
        self._journal = -1
        self.data = folder / "data" if journaled else durable.temporary(".data")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(self.data, flags, 0o600)
        if journaled:
            self.pieces = self._load_journal()

    def _load_journal(self) -> list[Piece]:
        path = self.folder / "journal"
        self._journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        header = json.dumps({"size": self.size}).encode() + b"\n"
        content = path.read_bytes()
        if not content.startswith(header):
            os.ftruncate(self._journal, 0)
            os.ftruncate(self.fd, 0)
            os.write(self._journal, header)
            return []
        if not content.endswith(b"\n"):
            # A line was torn: end it, so that the next one stands alone.
            os.write(self._journal, b"\n")
        return _disjoint(content[len(header) :], os.fstat(self.fd).st_size)

    @property
    def allocated(self) -> int:
        """Bytes of disk that the file has."""
        return os.fstat(self.fd).st_blocks * 512

    def allocate(self) -> None:
        """Claim the disk space of the whole file.

        Raises:
            InsufficientDisk: it doesn't fit.
        """
        if self.size == 0:
            return
        try:
            os.posix_fallocate(self.fd, 0, self.size)
        except OSError as error:
            raise disk_error(error, self.size) from error

    def write(self, view: memoryview, offset: int) -> None:
        """Write bytes at their place. `record` them once they are all written.

        Raises:
            InsufficientDisk: the disk is full.
        """
        try:
            while view:
                written = os.pwrite(self.fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise disk_error(error, len(view)) from error

    def record(self, start: int, end: int, crc: int) -> None:
        """Note in the journal that a piece is written."""
        if self._journal >= 0:
            try:
                os.write(self._journal, b"%d %d %08x\n" % (start, end, crc))
            except OSError as error:
                raise disk_error(error, 32) from error

    def read_into(self, view: memoryview, offset: int) -> None:
        """Read a written piece back."""
        done = 0
        while done < len(view):
            count = os.preadv(self.fd, [view[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "a partial file is shorter than its journal", self.data)
            done += count

    def finish(self, target: Path) -> None:
        """Make the content durable and give it its final name, unless that name is taken.

        The caller has checked the digest, and syncs the target's directory.
        """
        try:
            os.fchmod(self.fd, 0o444)
            self._durable.sync(self.fd)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._durable.make_directory(target.parent)
            self._durable.link(self.data, target)
        except OSError as error:
            raise disk_error(error, self.size) from error
        self.discard()

    def discard(self) -> None:
        """Throw away what was fetched, and let go of it."""
        self.data.unlink(missing_ok=True)
        if self._journal >= 0:
            (self.folder / "journal").unlink(missing_ok=True)
        self.close(remove=True)

    def close(self, *, remove: bool = False) -> None:
        """Let go of it. What was fetched stays for the next who claims it."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._lock is None:
            self.data.unlink(missing_ok=True)
            return
        os.close(self._journal)
        self._journal = -1
        self._lock.release(remove=remove)
        self._lock = None
        if remove:
            # A folder of its own, which only a file with a journal has.
            self._durable.remove_if_empty(self.folder)


class Ingest:
    """All partial files of a root."""

    def __init__(self, folder: Path, durable: Durable, *, locks_reliable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._reliable = locks_reliable

    def _place(self, key: str) -> Path:
        return self._folder / (key if self._reliable else f"{key}.{PROCESS_TOKEN}")

    def claim(self, key: str, size: int, *, resumable: bool = True) -> Partial:
        """Take a blob's partial file, as far as it got, to go on with it.

        `resumable=False` is for files that one request brings: they need no journal, no directory
        and no lock, and two processes may well fetch the same.

        Raises:
            Busy: another thread or process has it.
        """
        if not resumable:
            return Partial(self._folder, size, lock=None, durable=self._durable, journaled=False)
        folder = self._place(key)
        while True:
            folder.mkdir(exist_ok=True)
            try:
                lock = try_lock(folder / "lock")
            except FileNotFoundError:
                continue  # its last holder removed the folder in between
            break
        if lock is None:
            raise Busy(key)
        try:
            return Partial(folder, size, lock=lock, durable=self._durable, journaled=True)
        except BaseException:
            lock.release()
            raise

    def allocated(self, key: str) -> int:
        """Bytes of disk that a blob's partial file has claimed already."""
        try:
            return os.stat(self._place(key) / "data").st_blocks * 512
        except FileNotFoundError:
            return 0

    def sweep(self, keep: frozenset[str], older_than: float) -> int:
        """Remove partial files that nobody is at work on or wants.

        `older_than` is in seconds: younger ones stay, since their owner may come back.

        Returns:
            How many were removed.
        """
        removed = 0
        for folder in list(self._folder.iterdir()):
            if folder.name in keep or not folder.is_dir():
                continue
            newest = max((p.stat().st_mtime for p in folder.iterdir()), default=0.0)
            if time.time() - newest < older_than:
                continue
            lock = try_lock(folder / "lock")
            if lock is None:
                continue
            self._durable.remove_tree(folder)
            lock.release()
            removed += 1
        return removed


def disk_error(error: OSError, needed: int) -> Exception:
    """A failed write as an error of ours where the disk is full, else as it is."""
    if error.errno in NO_SPACE:
        return InsufficientDisk(
            f"the disk filled up while {needed} bytes were being written: free some space,"
            " or evict a model (modelcache evict NAME)",
            needed=needed,
        )
    return error


def _disjoint(journal: bytes, length: int) -> list[Piece]:
    """The pieces of a journal in order; where two overlap, the later line counts."""
    pieces: dict[int, Piece] = {}
    for line in journal.splitlines():
        try:
            start, end, crc = line.split(b" ")
            piece = Piece(int(start), int(end), int(crc, 16))
        except ValueError:
            continue  # a torn line
        if 0 <= piece.start < piece.end <= length:
            pieces[piece.start] = piece
    kept: list[Piece] = []
    for piece in sorted(pieces.values(), key=lambda p: p.start):
        if not kept or piece.start >= kept[-1].end:
            kept.append(piece)
    return kept
