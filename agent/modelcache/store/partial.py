"""Partial files: what has been fetched of a blob, so that no byte is fetched twice.

A partial file lies in a directory of its own with a journal that says which pieces are written,
each with its CRC32C. After SIGKILL the journal is right, because it is appended to only after the
write. After a power cut it may claim pieces that never reached the disk: the CRC tells.

One process at a time works on a partial file (`locking`). Where locks are not reliable, each
process has its own and resumes nothing of another's.

Where the file system takes direct I/O (open(2), O_DIRECT), whole blocks of big files go past the
page cache: that costs a twentieth of the processor time where fresh pages are dear, as in virtual
machines, and leaves the memory to the pods. Parts of blocks, at the ends of the file and of what a
broken connection brought, go through the page cache; no block ever goes both ways at once. Where it
takes none, what is written is synced every now and then: else the kernel would collect gigabytes,
and have everybody who writes wait for them in the end.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.locking import Lock
from modelcache.store.notes import clear_place

BLOCK_BYTES = 4096
"""What direct I/O wants offsets, lengths and addresses to be multiples of, on all usual devices."""

SMALL_BYTES = 4 * 1024 * 1024
"""Up to this the blocks of a file without a journal come with its bytes, in a moment."""

_DIRECT_BYTES = 4 * 1024 * 1024
_DIRTY_BYTES = 64 * 1024 * 1024
"""About as much of a file is in the page cache alone at most."""
_MOST_JOURNAL_BYTES = 256 * 1024 * 1024
"""Of seven million pieces, most of which have a mebibyte."""
_LINE = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19}) ([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Piece:
    """A written part of a partial file. `crc` is its CRC32C, or None where it isn't known yet."""

    start: int
    end: int
    crc: int | None


class Partial:
    """A partial file that is ours. Not safe for threads but for `write` and `read_into`."""

    def __init__(
        self,
        folder: Path,
        size: int,
        lock: Lock | None,
        durable: Durable,
        *,
        on_close: Callable[[], object],
        is_contended: Callable[[], bool],
    ) -> None:
        """With a lock, `folder` is the file's own, and it has a journal there."""
        journaled = lock is not None
        self.folder = folder
        self.size = size
        self.pieces: list[Piece] = []
        self._lock = lock
        self._durable = durable
        self._on_close = on_close
        self._is_contended = is_contended
        self._journal = -1
        self.data = folder / "data" if journaled else durable.temporary(".data")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if journaled:
            self._make_writable()
        self._direct = self._refused = -1
        self._dirty = 0
        self._untrusted = False
        self.fd = os.open(self.data, flags, 0o600)
        try:
            if size >= _DIRECT_BYTES:
                with suppress(OSError):  # not on this file system
                    self._direct = os.open(self.data, flags | os.O_DIRECT, 0o600)
            if journaled:
                self.pieces = self._load_journal()
        except BaseException:
            self._close_files()
            raise

    def _make_writable(self) -> None:
        """Undo what a `finish` that a crash cut short has done to the data.

        With a second name it is a blob already, and whatever was written here would be written
        there too. With one name it is complete and ours, but only root opens a file of mode 0444.
        """
        for path in (self.data, self.folder / "journal"):
            clear_place(path)
        with suppress(FileNotFoundError):
            found = self.data.lstat()
            if found.st_nlink > 1:
                self.data.unlink()
                (self.folder / "journal").unlink(missing_ok=True)
            elif not found.st_mode & stat.S_IWUSR:
                self.data.chmod(0o600)

    def _load_journal(self) -> list[Piece]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._journal = os.open(self.folder / "journal", flags, 0o600)
        header = json.dumps({"size": self.size}).encode() + b"\n"
        content = _content(self._journal)
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
    def contended(self) -> bool:
        """Whether another thread has asked for it in vain."""
        return self._is_contended()

    def allocate(self) -> int:
        """Claim the disk space of the whole file; how many bytes that took.

        Raises:
            InsufficientDisk: it doesn't fit.
        """
        if self._journal < 0 and self.size <= SMALL_BYTES:
            return self.size
        if self.size == 0:
            return 0
        before = os.fstat(self.fd)
        try:
            with disk_errors(self.size):
                os.posix_fallocate(self.fd, 0, self.size)
        except InsufficientDisk:
            # What was claimed before it failed would keep the disk full (ext4).
            os.ftruncate(self.fd, before.st_size)
            raise
        return (os.fstat(self.fd).st_blocks - before.st_blocks) * 512

    def write(self, view: memoryview, offset: int) -> None:
        """Write bytes at their place. `record` them once they are all written.

        Raises:
            InsufficientDisk: the disk is full.
        """
        with disk_errors(len(view)):
            while view:
                fd, size = self._way(len(view), offset)
                try:
                    written = os.pwrite(fd, view[:size], offset)
                except OSError as error:
                    self._no_more_direct(fd, error)
                    continue
                view, offset = view[written:], offset + written
                if fd == self.fd:
                    self._written_back(written)

    def _written_back(self, size: int) -> None:
        """Keep what only the page cache has within bounds.

        Raises:
            OSError: the disk failed. The kernel tells that once, and goes on to show what the disk
                doesn't have: nothing of it is kept.
        """
        self._dirty += size  # a race between threads loses some, which does no harm
        if self._dirty >= _DIRTY_BYTES:
            self._dirty = 0
            try:
                os.fdatasync(self.fd)
            except OSError:
                self._untrusted = True
                raise

    def _way(self, size: int, offset: int) -> tuple[int, int]:
        """Where the next bytes go, and how many of them: whole blocks past the page cache."""
        blocks = size - size % BLOCK_BYTES
        if self._direct >= 0 and blocks and offset % BLOCK_BYTES == 0:
            return self._direct, blocks
        return self.fd, size

    def _no_more_direct(self, fd: int, error: OSError) -> None:
        """Some file systems open a file for direct I/O and then refuse it, or want larger blocks.

        Raises:
            OSError: it is another error.
        """
        if error.errno != errno.EINVAL or fd == self.fd:
            raise error
        # Not closed: another thread may be writing to it.
        self._refused, self._direct = fd, -1

    def record(self, start: int, end: int, crc: int) -> None:
        """Note in the journal that a piece is written.

        Raises:
            InsufficientDisk: the disk is full.
        """
        if self._journal >= 0:
            with disk_errors(32):
                os.write(self._journal, b"%d %d %08x\n" % (start, end, crc))

    def read_into(self, view: memoryview, offset: int) -> None:
        """Read a written piece back."""
        while view:
            fd, size = self._way(len(view), offset)
            try:
                count = os.preadv(fd, [view[:size]], offset)
            except OSError as error:
                self._no_more_direct(fd, error)
                continue
            if count == 0:
                raise OSError(errno.EIO, "a partial file is shorter than its journal", self.data)
            view, offset = view[count:], offset + count

    def finish(self, target: Path) -> None:
        """Make the content durable and give it its final name, unless that name is taken.

        The caller has checked the digest, and syncs the target's directory.

        Raises:
            InsufficientDisk: the disk is full.
            OSError: the disk failed, and what was fetched is thrown away: after a failed fsync the
                page cache is no witness of what the disk has.
        """
        with disk_errors(self.size):
            try:
                os.fchmod(self.fd, 0o444)
                self._durable.sync(self.fd)
            except OSError:
                self.discard()
                raise
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._durable.make_directory(target.parent)
            self._name(target)
        self.discard()

    def _name(self, target: Path) -> None:
        while not self._durable.link(self.data, target):
            try:
                found = target.lstat()
            except FileNotFoundError:
                continue  # another process has just removed it
            if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
                # Damage that the file system did; what is here was checked a moment ago.
                self._durable.rename(self.data, target)
            return

    def discard(self) -> None:
        """Throw away what was fetched, and let go of it."""
        self.data.unlink(missing_ok=True)
        if self._journal >= 0:
            (self.folder / "journal").unlink(missing_ok=True)
        self.close(remove=True)

    def close(self, *, remove: bool = False) -> None:
        """Let go of it. What was fetched stays for the next who claims it, unless a sync failed."""
        if self.fd < 0:
            return
        if self._untrusted and not remove:
            self.discard()
            return
        journaled = self._journal >= 0
        self._close_files()
        if not journaled:
            self.data.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release(remove=remove)
            self._lock = None
        self._on_close()
        if remove and journaled:
            self._durable.remove_if_empty(self.folder)

    def _close_files(self) -> None:
        for fd in (self.fd, self._journal, self._direct, self._refused):
            if fd >= 0:
                os.close(fd)
        self.fd = self._journal = self._direct = self._refused = -1


def _content(journal: int) -> bytes:
    """All of a journal; of one that is longer than any of ours nothing."""
    size = os.fstat(journal).st_size
    if size > _MOST_JOURNAL_BYTES:
        return b""
    with open(os.dup(journal), "rb") as file:
        file.seek(0)
        return file.read(size)


def _disjoint(journal: bytes, length: int) -> list[Piece]:
    """The pieces of a journal in order; where two overlap, the later line counts."""
    pieces: dict[int, Piece] = {}
    for line in journal.split(b"\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            continue  # a torn line
        piece = Piece(int(found[1]), int(found[2]), int(found[3], 16))
        # What a torn line and the next make together may cross the chunks of a manifest.
        if piece.start < piece.end <= length and (
            piece.start // CHUNK_BYTES == (piece.end - 1) // CHUNK_BYTES
        ):
            pieces[piece.start] = piece
    kept: list[Piece] = []
    for piece in sorted(pieces.values(), key=lambda p: p.start):
        if not kept or piece.start >= kept[-1].end:
            kept.append(piece)
    return kept
