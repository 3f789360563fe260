"""Digests of a file, in the order of its bytes; and CRC32C of pieces, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from awscrt.checksums import combine_crc32c, crc32, crc32c, crc64nvme

from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import ChecksumMismatch
from modelcache.store import Piece

Buffer = bytes | bytearray | memoryview


class _Crc:
    def __init__(self, function: Callable[[Buffer, int], int], width: int) -> None:
        self._function = function
        self._width = width
        self._value = 0

    def update(self, data: Buffer) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._width}x}"


def _git_sha1(size: int) -> hashlib._Hash:
    # A git blob's id: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_ALGORITHMS: Mapping[str, Callable[[int], hashlib._Hash | _Crc]] = {
    "git-sha1": _git_sha1,
    "sha256": lambda _: hashlib.sha256(),
    "sha1": lambda _: hashlib.sha1(usedforsecurity=False),
    "md5": lambda _: hashlib.md5(usedforsecurity=False),
    "crc32": lambda _: _Crc(crc32, 8),
    "crc32c": lambda _: _Crc(crc32c, 8),
    "crc64nvme": lambda _: _Crc(crc64nvme, 16),
}


class Digests:
    """The SHA-256 of a file, and every checksum that its origin promises, in one pass."""

    def __init__(self, size: int, sha256: str | None, promised: Mapping[str, str]) -> None:
        self._size = size
        self._promised = {"sha256": sha256} if sha256 is not None else {}
        self._running = {"sha256": _ALGORITHMS["sha256"](size)}
        self._updates = [self._running["sha256"].update]
        self.promise(promised)

    def promise(self, checksums: Mapping[str, str]) -> None:
        """Compare with these as well. Nothing was updated yet.

        What is promised already stays as it is.
        """
        for name in checksums.keys() & _ALGORITHMS.keys() - self._promised.keys():
            self._promised[name] = checksums[name]
            if name not in self._running:
                self._running[name] = _ALGORITHMS[name](self._size)
        self._updates = [digest.update for digest in self._running.values()]

    def update(self, data: Buffer) -> None:
        """Take the next bytes of the file. Releases the GIL for more than 2 KiB."""
        for update in self._updates:
            update(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex."""
        return self._running["sha256"].hexdigest()

    def check(self, path: str) -> dict[str, str]:
        """Compare with what the origin promised.

        Returns:
            The checksums that were verified, by algorithm.

        Raises:
            ChecksumMismatch
        """
        for name, expected in self._promised.items():
            found = self._running[name].hexdigest()
            if found != expected:
                raise ChecksumMismatch(
                    f"{path}: the origin promised {name} {expected}, and what came has {found}"
                )
        return dict(self._promised)


def checksum(data: Buffer) -> int:
    """CRC32C (RFC 3720) of a buffer."""
    return int(crc32c(data))


def chunk_checksums(pieces: Iterable[Piece]) -> tuple[str, ...]:
    """CRC32C of each 16 MiB chunk from those of the pieces that make up a file.

    The pieces are in order, without gaps, and none crosses a chunk's end. Nothing is read: CRCs of
    neighbours combine (https://www.zlib.net/manual.html#Checksum, crc32_combine).
    """
    chunks: list[int] = []
    for piece in pieces:
        assert piece.crc is not None
        if piece.start % CHUNK_BYTES == 0:
            chunks.append(piece.crc)
        else:
            chunks[-1] = combine_crc32c(chunks[-1], piece.crc, piece.end - piece.start)
    return tuple(f"{crc:08x}" for crc in chunks)
