"""One file being fetched: which ranges are still to come, and the digest in order.

Ranges are fetched side by side and in any order; the digest takes the bytes in the file's order. So
each piece of a mebibyte, once written, is hashed at once if it is the next; if not, its buffer is
kept until it is. Only when all spare buffers are taken is a piece read back later (it is then still
in the page cache). Whoever brings the next piece hashes it and those that waited for it, while the
others go on receiving: no thread waits for another.
"""

from __future__ import annotations

import threading
from bisect import insort
from dataclasses import dataclass

from modelcache.api import ManifestFile
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import OriginChanged
from modelcache.origins.protocol import Location, RemoteFile
from modelcache.store import Partial, Piece
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.digesting import Digests, checksum, chunk_checksums
from modelcache.transfer.spending import spending


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Bytes from `start` to before `end`, to be asked for in one request.

    `whole`: the server sends the whole file anyway; what comes before `start` is passed over.
    """

    start: int
    end: int
    whole: bool = False


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
    def complete(self) -> bool:
        """Whether every byte is written and hashed."""
        with self._mutex:
            return self._head == self.file.size and not self._hashing

    def claim(self) -> Range:
        """Take the first range that nobody is fetching."""
        with self._mutex:
            self.in_flight += 1
            if self.whole_only:
                # What lies further on would come again anyway: the bytes are taken in order.
                self._pending.clear()
                self._drop_waiting()
                return Range(self._head, self.file.size, whole=True)
            return self._pending.pop(0)

    def release(self, rest: Range | None) -> None:
        """Let go of a range: `rest` is what of it did not come."""
        with self._mutex:
            self.in_flight -= 1
            if rest is not None and rest.start < rest.end:
                insort(self._pending, rest)

    def check_etag(self, etag: str | None, mirror: str | None = None) -> None:
        """All answers of one server for a file have the same entity tag, or it was replaced.

        Raises:
            OriginChanged
        """
        with self._mutex:
            if etag is not None and etag != self._etags.setdefault(mirror, etag):
                raise OriginChanged(f"{self.file.path} was replaced while it was being fetched")

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
            kept = self._buffers.may()
            with self._mutex:
                self._waiting[start] = (piece, buffer if kept is not None else None)
            if kept is not None:
                buffer = kept
        self.drain()
        return buffer

    def _advance(self, piece: Piece) -> None:
        with self._mutex:
            self._hashed.append(piece)
            self._head = piece.end
            self._hashing = False

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
                self._buffers.give_back(buffer, spare=True)
                self._advance(piece)
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
            self._head = piece.end
            self._hashing = False
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
            self._drop_waiting()
        self.partial.close()

    def _drop_waiting(self) -> None:
        for _, buffer in self._waiting.values():
            if buffer is not None:
                self._buffers.give_back(buffer, spare=True)
        self._waiting.clear()
