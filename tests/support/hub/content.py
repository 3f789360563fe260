"""What files hold: bytes that need not be in memory, and their digests."""

from __future__ import annotations

import functools
import hashlib
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview

SECTION = 1 << 20
_BLOCK_SECTIONS = 4
_STAMP = 16

_digests: dict[tuple[str, str], str] = {}


class Content(ABC):
    """The bytes of one file.

    Digests are computed on first use and kept for the life of the process, because a suite makes
    the same large content again and again.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a file cannot have {size} bytes")
        self.size = size
        self._digesting = threading.Lock()

    @property
    @abstractmethod
    def identity(self) -> str:
        """A name that two contents share only when their bytes are the same; cheap to get."""

    @abstractmethod
    def read(self, start: int, end: int) -> Iterator[Buffer]:
        """The bytes in ``[start, end)``, in pieces of at most 1 MiB that must not be written to."""

    def data(self) -> bytes:
        """Everything in one piece, for tests that compare."""
        return b"".join(self.read(0, self.size))

    def sha256(self) -> str:
        """What the Hub calls the LFS oid."""
        return self._digest("sha256", b"")

    def git_sha1(self) -> str:
        """The id git gives a blob with these bytes (``git hash-object``)."""
        return self._digest("sha1", b"blob %d\0" % self.size)

    def _digest(self, algorithm: str, prefix: bytes) -> str:
        key = (algorithm, self.identity)
        with self._digesting:
            if key not in _digests:
                digest = hashlib.new(algorithm, prefix)
                for piece in self.read(0, self.size):
                    digest.update(piece)
                _digests[key] = digest.hexdigest()
            return _digests[key]


class BytesContent(Content):
    """A small file, held in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self._data = data

    @functools.cached_property
    def identity(self) -> str:
        return f"bytes:{hashlib.sha256(self._data).hexdigest()}"

    def read(self, start: int, end: int) -> Iterator[Buffer]:
        view = memoryview(self._data)[start:end]
        for at in range(0, len(view), SECTION):
            yield view[at : at + SECTION]


class GeneratedContent(Content):
    """A pseudo-random file of any size: a function of seed and position, so it costs no memory.

    One random block of 4 MiB repeats, but each section of 1 MiB begins with a stamp of its own
    (8 bytes from the seed, then its index, big-endian). So no two sections are equal, and a range
    delivered to the wrong place, or twice, changes every digest.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size)
        self.seed = seed
        self._mark = hashlib.sha256(b"%d" % seed).digest()[:8]

    @property
    def identity(self) -> str:
        return f"generated:{self.size}:{self.seed}"

    def read(self, start: int, end: int) -> Iterator[Buffer]:
        block = memoryview(_block(self.seed))
        at, end = start, min(end, self.size)
        while at < end:
            index, offset = divmod(at, SECTION)
            until = min(end - index * SECTION, SECTION)
            if offset < _STAMP:
                stamp = self._mark + index.to_bytes(8, "big")
                yield stamp[offset:until]
            if until > _STAMP:
                base = index % _BLOCK_SECTIONS * SECTION
                yield block[base + max(offset, _STAMP) : base + until]
            at = index * SECTION + until


class Resized(Content):
    """Another content cut off, or filled up with zeros, at ``size``: a file of the wrong length."""

    def __init__(self, original: Content, size: int) -> None:
        super().__init__(size)
        self._original = original

    @property
    def identity(self) -> str:
        return f"resized:{self.size}:{self._original.identity}"

    def read(self, start: int, end: int) -> Iterator[Buffer]:
        end = min(end, self.size)
        split = max(start, min(end, self._original.size))
        yield from self._original.read(start, split)
        for at in range(split, end, SECTION):
            yield bytes(min(SECTION, end - at))


@functools.lru_cache(maxsize=32)
def _block(seed: int) -> bytes:
    """The repeated block, made again when it has gone: 10 ms for 4 MiB is less than keeping all."""
    return random.Random(seed).randbytes(_BLOCK_SECTIONS * SECTION)
