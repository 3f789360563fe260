"""One file being fetched: which ranges are still to come, and the digest in order.

Ranges are fetched side by side and in any order; the digest takes the bytes in the file's order. So
each piece of a mebibyte is hashed at once if it is the next; if not, its buffer is kept until it
is. Whoever brings the next piece hashes it and those that waited for it, while the others go on
receiving: no thread waits for another.

A range that is not the next begins only with the buffers for all of it. So what is received before
its turn stays within bounds, and a file that is received faster than it is hashed gets fewer
connections. Where it is the next range that takes its time, the others soon go on without buffers:
their pieces are read back later.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelcache.api import ManifestFile
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import OriginChanged
from modelcache.origins.protocol import Location, RemoteFile
from modelcache.store import Partial, Piece
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.digesting import Digests, checksum, chunk_checksums
from modelcache.transfer.spending import spending

STALLED_SECONDS = 0.5
"""How long the next piece may take until the others go on without buffers."""


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Bytes from `start` to before `end`, to be asked for in one request.

    `whole`: the server sends the whole file anyway; what comes before `start` is passed over.
    """

    start: int
    end: int
    whole: bool = False

    @property
    def pieces(self) -> int:
        """How many pieces it has at most."""
        return (self.end - 1) // PIECE_BYTES - self.start // PIECE_BYTES + 1


class FileFetch:
    """The state of one file's fetch. Safe for threads."""

    def __init__(
        self,
        file: RemoteFile,
        location: Location | None,
        partial: Partial,
        buffers: Buffers,
        *,
        range_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert CHUNK_BYTES % range_bytes == 0, "pieces must not cross the chunks of a manifest"
        self.file = file
        self.location = location
        self.partial = partial
        self.in_flight = 0
        self.whole_only = False
        """The server sends the whole file whatever is asked: one request, from the start."""
        self._etags: dict[str | None, str] = {}
        self._buffers = buffers
        self._range_bytes = range_bytes
        self._clock = clock
        self._mutex = threading.Lock()
        self._digests = Digests(
            file.size, file.sha256, {**file.checksums, **(location.checksums if location else {})}
        )
        self._head = 0
        self._hashing = False
        self._hashed: list[Piece] = []
        self._waiting: dict[int, tuple[Piece, memoryview | None]] = {
            piece.start: (piece, None) for piece in partial.pieces
        }
        self._pending = self._gaps(partial.pieces)
        self._promised: dict[int, int] = {}
        """Buffers that are promised to a range being fetched, by its place in the file."""
        self._moved = self._clock()

    def _gaps(self, pieces: list[Piece]) -> list[Range]:
        """What is missing, cut where ranges end."""
        ranges: list[Range] = []
        position = 0
        for start, end in [*((p.start, p.end) for p in pieces), (self.file.size, self.file.size)]:
            while position < start:
                cut = min(start, (position // self._range_bytes + 1) * self._range_bytes)
                ranges.append(Range(position, cut))
                position = cut
            position = end
        return ranges

    @property
    def present(self) -> int:
        """Bytes that are on the disk."""
        with self._mutex:
            waiting = sum(piece.end - piece.start for piece, _ in self._waiting.values())
            return self._head + waiting

    @property
    def idle(self) -> bool:
        """Whether there is a range that nobody is fetching."""
        with self._mutex:
            return bool(self._pending) and not (self.whole_only and self.in_flight)

    @property
    def ranges_left(self) -> int:
        """How many ranges nobody is fetching, or has fetched."""
        with self._mutex:
            return len(self._pending)

    @property
    def complete(self) -> bool:
        """Whether every byte is written and hashed."""
        with self._mutex:
            return self._head == self.file.size and not self._hashing

    def claim(self) -> Range | None:
        """Take the first range that nobody is fetching; None: not now."""
        with self._mutex:
            if not self._pending or (self.whole_only and self.in_flight):
                return None
            if self.whole_only:
                # What lies further on would come again anyway: the bytes are taken in order.
                self._pending.clear()
                self.in_flight += 1
                whole = Range(self._head, self.file.size, whole=True)
                kept = self._waiting
                self._waiting = {}
            else:
                return self._claim_next()
        self._give_up(kept)
        return whole

    def _claim_next(self) -> Range | None:
        wanted = self._pending[0]
        if wanted.start != self._head:
            if self._buffers.reserve(wanted.pieces):
                self._promised[wanted.start // self._range_bytes] = wanted.pieces
            elif self._clock() - self._moved < STALLED_SECONDS:
                return None
        self.in_flight += 1
        return self._pending.pop(0)

    def hold(self) -> None:
        """Count somebody who is at work on the file, but on no range of it."""
        with self._mutex:
            self.in_flight += 1

    def let_go(self) -> None:
        """Don't count them any more."""
        with self._mutex:
            self.in_flight -= 1

    def release(self, claimed: Range, rest: Range | None) -> None:
        """Let go of a range: `rest` is what of it did not come."""
        with self._mutex:
            self.in_flight -= 1
            if rest is not None and rest.start < rest.end:
                insort(self._pending, rest)
            left = self._promised.pop(claimed.start // self._range_bytes, 0)
        self._buffers.release(left)

    def check_etag(self, etag: str | None, mirror: str | None = None) -> None:
        """All answers of one server for a file have the same entity tag, or it was replaced.

        Raises:
            OriginChanged
        """
        with self._mutex:
            if etag is not None and etag != self._etags.setdefault(mirror, etag):
                raise OriginChanged(f"{self.file.path} was replaced while it was being fetched")

    def promise(self, checksums: Mapping[str, str]) -> None:
        """Have the content compared with more checksums, if there is still time for it."""
        if checksums:
            with self._mutex:
                if self._head == 0 and not self._hashing:
                    self._digests.promise(checksums)

    def take(self, start: int, buffer: memoryview, size: int) -> memoryview:
        """Take a received piece: write it, note it, and hash it if it is the next.

        Returns:
            A buffer for the next piece: the same, or another when this one is kept.

        Raises:
            InsufficientDisk, OSError
        """
        data = buffer[:size]
        with spending("hash"):
            piece = Piece(start, start + size, checksum(data))
        with self._mutex:
            mine = start == self._head and not self._hashing
            if mine:
                self._hashing = True
        if mine:
            # Hashed first: the bytes are still in the processor's cache.
            with spending("hash"):
                self._digests.update(data)
        assert piece.crc is not None
        with spending("disk"):
            self.partial.write(data, start)
            self.partial.record(piece.start, piece.end, piece.crc)
        if mine:
            self._advance(piece)
        else:
            buffer = self._keep(piece, buffer)
        self.drain()
        return buffer

    def _keep(self, piece: Piece, buffer: memoryview) -> memoryview:
        """Keep a piece for its turn, with its buffer if that was promised.

        Returns:
            The buffer to go on with.
        """
        with self._mutex:
            place = piece.start // self._range_bytes
            left = self._promised.get(place, 0)
            if not left:
                self._waiting[piece.start] = (piece, None)
                return buffer
            other = self._buffers.must()  # before anything is noted: there may be no memory
            self._promised[place] = left - 1
            self._waiting[piece.start] = (piece, buffer)
            return other

    def _advance(self, piece: Piece) -> None:
        with self._mutex:
            self._hashed.append(piece)
            self._move(piece.end)

    def _move(self, head: int) -> None:
        self._head = head
        self._hashing = False
        self._moved = self._clock()

    def drain(self) -> None:
        """Hash the pieces that waited for their turn, unless another thread is at it."""
        while True:
            with self._mutex:
                if self._hashing or self._head not in self._waiting:
                    return
                self._hashing = True
                piece, buffer = self._waiting.pop(self._head)
            size = piece.end - piece.start
            if buffer is not None:
                with spending("hash"):
                    self._digests.update(buffer[:size])
                self._advance(piece)
                self._buffers.give_back(buffer)
                self._buffers.release(1)
            elif not self._hash_from_disk(piece):
                return

    def _hash_from_disk(self, piece: Piece) -> bool:
        """Hash a piece that only the disk has; what is not as written is fetched again."""
        buffer = self._buffers.must()
        try:
            for start in range(piece.start, piece.end, PIECE_BYTES):
                end = min(piece.end, start + PIECE_BYTES)
                data = buffer[: end - start]
                with spending("disk"):
                    self.partial.read_into(data, start)
                crc = checksum(data)
                if piece.crc is not None and crc != piece.crc:
                    with self._mutex:
                        insort(self._pending, Range(piece.start, piece.end))
                        self._hashing = False
                    return False
                with spending("hash"):
                    self._digests.update(data)
                with self._mutex:
                    self._hashed.append(Piece(start, end, crc))
        finally:
            self._buffers.give_back(buffer)
        with self._mutex:
            self._move(piece.end)
        return True

    def finish(self) -> ManifestFile:
        """Check the digests of a complete file, and describe it.

        Raises:
            ChecksumMismatch
        """
        checksums = self._digests.check(self.file.path)
        checksums.pop("sha256", None)
        return ManifestFile(
            path=self.file.path,
            size=self.file.size,
            sha256=self._digests.sha256,
            chunks=chunk_checksums(self._hashed),
            origin_path=self.file.origin_path,
            identity=self.file.identity,
            etag=self.file.etag,
            checksums=checksums,
        )

    def close(self) -> None:
        """Let go of the partial file and the buffers. Nobody is fetching any more."""
        with self._mutex:
            kept, self._waiting = self._waiting, {}
            promised = sum(self._promised.values())
            self._promised.clear()
        self._give_up(kept)
        self._buffers.release(promised)
        self.partial.close()

    def _give_up(self, waiting: Mapping[int, tuple[Piece, memoryview | None]]) -> None:
        """Let go of the buffers of pieces that waited. Not under our lock: who waits for buffers is
        told, and may hold another."""
        kept = [buffer for _, buffer in waiting.values() if buffer is not None]
        for buffer in kept:
            self._buffers.give_back(buffer)
        self._buffers.release(len(kept))
